"""Weights whose scales fp16 holds hardly or not at all, in every shipped recipe: handled, in the
runtimes themselves, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter import registry
from goldfold.exporter.driver.preparing import quantize, rewrite
from goldfold.exporter.errors import UsageError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.rewriting.grid import COARSE, Grid, nearest
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import plan, recipe, sites, statistics, texts
from goldfold.exporter.quantize.gptq import Order
from goldfold.exporter.quantize.reach import step
from goldfold.exporter.quantize.recipe import made
from goldfold.targets.base import Target
from tests.exporter.quantize.few import few

RECIPES = ("int8", "int8-weights", "int4", "int8-static", "mixed", "small")
IDS = np.arange(5, 30, dtype=np.int64)[None]
MASK = np.ones_like(IDS)


@pytest.fixture(autouse=True)
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    some = texts.corpus_texts()[:24]
    monkeypatch.setattr(texts, "corpus_texts", lambda: some)


def planted(
    legal: Program, kind: str, depth: int, change: Callable[[np.ndarray], object]
) -> Program:
    """A copy whose matrix [channels, inputs] of this kind and layer is changed in place."""
    copy = legal.copy()
    plant(copy, kind, depth, change)
    return copy


def plant(program: Program, kind: str, depth: int, change: Callable[[np.ndarray], object]) -> None:
    site = next(s for s in sites.find(program) if s.kind == kind and s.depth == depth)
    tensor = site.stored.const_value
    assert tensor is not None
    array = np.array(tensor.numpy())
    change(array.T if site.turned else array)
    site.stored.const_value = ir.tensor(array, name=tensor.name)


def row(size: float) -> Callable[[np.ndarray], None]:
    """Row 3 becomes as small as `size` at its largest."""

    def change(matrix: np.ndarray) -> None:
        matrix[3] *= np.float32(size / np.abs(matrix[3]).max())

    return change


def odd(legal: Program) -> Program:
    """Tiny rows, columns and table's rows in several places, of f32's and fp16's subnormals."""
    copy = legal.copy()
    plant(copy, "up", 1, row(1e-40))  # f32's
    plant(copy, "gate", 2, row(2e-6))  # its scale was below fp16's least
    plant(copy, "value", 2, row(1e-5))  # its scale is among fp16's coarsest
    plant(copy, "down", 3, lambda matrix: matrix[:, 5].__imul__(np.float32(1e-40)))
    plant(copy, "table", 0, row(1e-42))
    plant(copy, "table", 0, lambda table: table[:, 7].__imul__(np.float32(1e-38)))
    return copy


def quantized(program: Program, name: str) -> tuple[Program, Program]:
    """A program before and behind the recipe's integers."""
    found = recipe.find(name)
    assert found is not None
    copy, run = program.copy(), Pipeline()
    rewrite(copy, found, run, Stages())
    before = copy.copy()
    quantize(copy, found, run, Stages(), [("onnxruntime", name)])
    return before, copy


def built(program: Program, target: Target, name: str, folder: Path) -> np.ndarray:
    """What the target's runtime computes of its own file."""
    found = recipe.find(name)
    floating = registry.floating(target.name, name, found and found.around)
    copy = program.copy()
    pipeline.run(copy, pipeline.half(floating, {}, target.strongly_typed, target.integer_sums, {}))
    pipeline.run(copy, target.backend_passes(floating, copy.contract, {}))
    options = target.settle(floating, target.Options(), copy.contract.max_length)
    pipeline.run(copy, target.last_passes(options))
    folder.mkdir()
    target.build(copy, floating, folder, options)
    run = target.load(folder, copy.contract, floating, 1)
    return np.asarray(run(IDS, MASK, None))[0].astype(np.float64)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (x.astype(np.float64) / np.linalg.norm(x) for x in (one, other))
    return 0.5 * float((a - b) @ (a - b))


@pytest.mark.parametrize("name", RECIPES)
def test_tiny_rows_are_rounded_like_others_in_both_runtimes(
    legal_gemma: Program, name: str, tmp_path: Path
) -> None:
    """The same model without them shows what the recipe's rounding is here; odd rows may be twice
    as bad, for one text's rounding is a draw."""
    results = {}
    for what, program in (("plain", legal_gemma), ("odd", odd(legal_gemma))):
        before, after = quantized(program, name)
        exact = interpret.runner(before)(IDS, MASK)[0]
        assert np.isfinite(exact).all()
        for place in ("onnxruntime", "openvino"):
            got = built(after, registry.target(place), name, tmp_path / f"{what}-{place}")
            assert np.isfinite(got).all()
            results[what, place] = apart(exact, got)
    for place in ("onnxruntime", "openvino"):
        assert results["odd", place] < 2 * results["plain", place] + 5e-4, results


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("factor", "said"), [(1e-9, "below"), (1e-38, "below"), (1e9, "above")])
def test_a_matrix_out_of_reach_is_refused_by_name(
    legal_gemma: Program, name: str, factor: float, said: str
) -> None:
    program = planted(legal_gemma, "output", 4, lambda matrix: matrix.__imul__(np.float32(factor)))
    with pytest.raises(UsageError) as refused:
        quantized(program, name)
    text = str(refused.value)
    assert f"layers.4.self_attn.o_proj (output) has weights {said} every scale" in text
    assert "bits = 0 in a rule" in text and len(text.splitlines()) == 1


def test_a_row_that_would_be_zeros_beside_others_as_small_is_refused(legal_gemma: Program) -> None:
    def change(matrix: np.ndarray) -> None:
        matrix *= np.float32(1e-3)
        row(2e-8)(matrix)

    program = planted(legal_gemma, "output", 4, change)
    plain = made("mine", {"gains": "keep", "weights": {"bits": 8}})
    pipeline.run(program, pipeline.common(program.contract, "none"))
    with pytest.raises(UsageError, match=r"\(output\) has weights in row 3 of its output below"):
        plan.passes(plain, program, [])


@pytest.mark.parametrize(
    ("bits", "size"), [(8, 2e-6), (8, 1e-5), (8, 5e-5), (4, 1e-7), (4, 1e-6), (4, 3e-6)]
)
def test_no_weight_of_a_small_row_is_clipped(bits: int, size: float) -> None:
    """A scale among fp16's coarsest is rounded up: nothing is off by more than half a step."""
    rng = np.random.default_rng(3)
    matrix = rng.uniform(-1, 1, (6, 32)).astype(np.float32) * np.float32(size)
    matrix[:, 0] = size
    found = nearest(matrix, Grid(bits), search=False)
    assert (found.scale >= 2.0**-24).all() and (found.scale <= COARSE).all()
    assert (np.abs(found.dense() - matrix) <= found.scale / 2 * (1 + 1e-3)).all()
    zeros = nearest(np.zeros((2, 8), np.float32), Grid(bits))
    assert not zeros.numbers.any() and (zeros.scale == 1).all()  # as ever


def seen(peak: float) -> statistics.Activation:
    one = np.array([peak], np.float32)
    return statistics.Activation(one, np.square(one, dtype=np.float64), np.ones(1), 1)


def test_steps_are_neither_zero_nor_infinite(program: Program) -> None:
    site = next(s for s in sites.find(program) if s.kind == "gate")
    for peak in (1e-42, 1e-9, 1e-6, 2e-6, 1e-4, 1.0, 8e6):
        found = step(site, seen(peak))
        assert np.isfinite(found) and np.isfinite(1 / found)
        assert found >= peak / 127 * (1 - 2.0**-4)  # a value of the texts loses no more
    assert step(site, seen(0.0)) == 1e-6
    with pytest.raises(UsageError, match=r"gate_proj \(gate\) reads values up to 1.0e\+07, above"):
        step(site, seen(1e7))


def test_moments_that_f32_does_not_hold_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"^the.value has values on calibration texts that are"):
        Order.of(np.full((4, 4), np.inf), "the.value")
    alike = Order.of(np.full((64, 64), 1e30) * (1 + 1e-7 * np.eye(64)), "the.value")
    assert np.isfinite(alike.upper).all()


def test_balancing_leaves_a_column_of_subnormals_alone(legal_gemma: Program) -> None:
    program = planted(legal_gemma, "up", 1, lambda matrix: matrix[:, 5].__imul__(np.float32(1e-40)))
    mine = made("mine", {"gains": "balance", "weights": {"bits": 8}})
    pipeline.run(program, pipeline.common(program.contract, "none"))
    exact = interpret.runner(program)(IDS, MASK)[0]
    pipeline.run(program, plan.balance(mine, program, []))
    assert apart(exact, interpret.runner(program)(IDS, MASK)[0]) < 1e-9


@pytest.mark.parametrize("count", [1, 2, plan.LEAST - 1])
def test_few_calibration_texts_are_refused(program: Program, count: int) -> None:
    ids = [[2, *range(at, at + 5), 1] for at in range(50, 50 + count)]
    for given in ({"bits": 8, "rounding": "gptq"}, {"bits": 8, "activations": "static"}):
        with pytest.raises(UsageError, match=f"{count} different text.* too few .* at least 16"):
            plan.passes(made("mine", {"weights": given}), program, ids * 20)
    with pytest.raises(UsageError, match="at least 16, of every script and length"):
        plan.balance(made("mine", {"alpha": 0.5}), program, ids)
    plan.passes(made("mine", {"weights": {"bits": 8}}), program, ids)  # needs no texts
