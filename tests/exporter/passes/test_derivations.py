"""Every pass says how its constants follow from those that were there before: the independent
checker evaluates that from a file of the weights, and compares it with the rewritten graph's own
file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from safetensors.numpy import save_file

from goldfold.exporter.artifact import derivations
from goldfold.exporter.contract import Contract
from goldfold.exporter.ir import derivation
from goldfold.exporter.ir.derivation import LOST, derived, given, literal, of
from goldfold.exporter.ir.derivation_text import Writer
from goldfold.exporter.ir.program import Program, add_constant, constant, set_derivation
from goldfold.exporter.passes.base import Pass
from goldfold.golden.proof.check import check
from goldfold.golden.proof.records import Proof
from tests.exporter.passes import harness
from tests.exporter.passes.test_laws import EXAMPLES

_WEIGHTS = "model.safetensors"
_NOTHING = Contract(model="", dim=1, max_length=1, vocab_size=1, pad_id=0, normalized=True)


def _sourced(model: ir.Model, source: Path) -> None:
    """Let the constants of a graph be tensors of a model in the folder `source`."""
    source.mkdir(exist_ok=True)
    arrays = {}
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        array = value.const_value.numpy()
        packed = array.dtype in (ml_dtypes.int4, ml_dtypes.uint4)
        arrays[name] = np.array(array.astype(np.int8) if packed else array, order="C")
        how = derivation.tensor(_WEIGHTS, name)
        set_derivation(value, derivation.cast(how, array.dtype) if packed else how)
    save_file(arrays, source / _WEIGHTS)


def _proof(model: ir.Model, folder: Path) -> Proof:
    """Write a graph and its derivations, and check them against the model beside."""
    folder.mkdir()
    program = Program(model, _NOTHING, derived=True)
    text = derivations.text_of(program)
    onnx.save(ir.to_proto(model), folder / "model.onnx")
    derivations.write(text, program, folder)
    return check(folder, folder / derivations.DERIVATIONS, folder.parent / "source")


@pytest.mark.parametrize(("this", "before", "after"), EXAMPLES)
def test_constants_follow_from_those_before(
    this: Pass, before: str, after: str, tmp_path: Path
) -> None:
    model = harness.build(before)
    _sourced(model, tmp_path / "source")
    assert this.rewrite(model).applied
    proof = _proof(model, tmp_path / "artifact")
    assert proof.faults == () and proof.uncovered == ()
    assert all(one.how != "assumed" for one in proof.constants)


@pytest.mark.parametrize(
    ("this", "before", "after"),
    [example for example in EXAMPLES if "fuse-identity-dense" in str(example.id)][:1],
)
def test_a_wrong_pass_is_named(this: Pass, before: str, after: str, tmp_path: Path) -> None:
    model = harness.build(before)
    _sourced(model, tmp_path / "source")
    this.rewrite(model)
    weight = next(v for v in model.graph.initializers.values() if str(v.name).endswith(".weight"))
    assert weight.const_value is not None
    spoiled = np.array(weight.const_value.numpy())
    spoiled[1] *= 1.001
    kept = dict(weight.const_value.meta)
    weight.const_value = ir.tensor(spoiled, name=weight.name)
    weight.const_value.meta.update(kept)
    fault, *_ = _proof(model, tmp_path / "artifact").faults
    assert fault.constant == weight.name and "row 1" in fault.sentence


@dataclasses.dataclass(frozen=True)
class _Case:
    make: Callable[[np.ndarray], np.ndarray]
    says: str


CASES = [
    _Case(lambda x: x[1:3, ::1].T, 'transpose(slice(given("x"), 0, 1, 3), 1, 0)'),
    _Case(lambda x: x.T.T, 'given("x")'),
    _Case(lambda x: x.astype(np.float64).astype(np.float32), 'cast(given("x"), "float32")'),
    _Case(lambda x: -x[0], 'neg(reshape(slice(given("x"), 0, 0, 1), 3))'),
    _Case(lambda x: x * 0.5, 'cast(mul(given("x"), literal("float32", (), (0.5,))), "float32")'),
    _Case(lambda x: x * np.float64(0.5), 'mul(given("x"), literal("float64", (), (0.5,)))'),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_arrays_remember_how_they_were_made(case: _Case) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    made = case.make(derived(array, given("x")))
    assert np.array_equal(made, case.make(array))
    text = Writer()
    text.write("y", "stored", of(made), "test")
    assert text.lines[-1] == f"y stored @test = {case.says}"


def test_an_operation_that_is_not_known_loses_the_derivation() -> None:
    array = derived(np.ones((4, 3), np.float32), given("x"))
    for made in (np.cumsum(array, axis=0), array[::2], np.sin(array), np.tile(array, 2)):
        assert of(made) is LOST
    array[0] = 2
    assert of(array) is LOST
    total = derived(np.ones((4, 3), np.float32), given("x"))
    total += 1
    assert of(total) is LOST


def test_numbers_that_a_pass_makes_up_are_literals_where_they_are_few_or_regular() -> None:
    assert of(np.array([0, -1, 768])).op == "literal"
    assert of(np.zeros((100, 100), np.float32)).op == "full"
    assert of(np.arange(512)).op == "arange"
    assert of(np.random.default_rng(0).normal(size=65)) is LOST
    assert literal(np.array([0.0, -0.0])).op == "literal"  # not equal to the bit


def test_a_constant_without_a_derivation_is_illegal() -> None:
    model = harness.build("f (float[B,3] x, float[3] w) => (float[B,3] y) { y = Mul(x, w) }")
    drawn = np.random.default_rng(0).normal(size=300).astype(np.float32)
    made = add_constant(model.graph, "made_up", drawn)
    assert constant(made) is not None
    assert harness.faults(model) == [
        "constant 'made_up' does not say how it follows from the model's tensors"
    ]


def test_what_follows_from_assumed_numbers_is_assumed() -> None:
    array = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    held = derived(array, derivation.chosen(array, "assumed"))
    made = of(held[:20] * np.float32(2))
    assert made.op == "assumed" and made.args[1] == (20, 3)
