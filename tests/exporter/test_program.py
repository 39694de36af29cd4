"""What every pass stands on: constants, weights set aside, tools that take protobuf, and runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import onnxsim
import pytest

from goldfold.exporter.contract import ATTENTION_MASK, EMBEDDING, INPUT_IDS
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.frontend import simplify
from goldfold.exporter.ir import dialect, legality
from goldfold.exporter.ir.program import (
    MODULE,
    Program,
    add_constant,
    constant,
    drop_unused,
    infer_shapes,
    insert_before,
    load_small,
    through_proto,
    unique_name,
    weights_aside,
    where,
)
from goldfold.exporter.records import read
from tests.exporter import small
from tests.exporter.passes import harness

BIG = {"table", "left", "right"}


@pytest.fixture
def program() -> Program:
    return small.program()


@pytest.fixture
def texts() -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([[3, 9, 4, 1, 0, 0], [5, 5, 7, 2, 29, 8]], np.int64)
    return ids, (ids != 0).astype(np.int64)


def held(program: Program) -> dict[str, object]:
    """The very tensors of the constants, by name."""
    return {name: value.const_value for name, value in program.graph.initializers.items()}


def assert_holds_the_same(program: Program, before: dict[str, object]) -> None:
    after = held(program)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


# Weights set aside --------------------------------------------------------------------------------


def test_weights_set_aside_are_inputs_without_data(program: Program) -> None:
    with weights_aside(program.model) as aside:
        assert {value.name for value in aside} == BIG
        assert [value.name for value in program.graph.inputs][:2] == [INPUT_IDS, ATTENTION_MASK]
        assert {value.name for value in program.graph.inputs[2:]} == BIG
        assert not BIG & set(program.graph.initializers)
        proto = ir.to_proto(program.model)
        onnx.checker.check_model(proto, full_check=True)
        # Less than the smallest of the three, so none of them is in it.
        assert len(proto.SerializeToString()) < 4 * small.VOCAB_SIZE * small.DIM


def test_weights_set_aside_come_back(program: Program) -> None:
    before, inputs = held(program), list(program.graph.inputs)
    values = dict(program.graph.initializers)
    with weights_aside(program.model):
        pass
    assert_holds_the_same(program, before)
    assert list(program.graph.inputs) == inputs
    assert all(program.graph.initializers[name] is value for name, value in values.items())
    assert list(legality.faults(program)) == []


def test_weights_set_aside_come_back_from_a_failure(program: Program) -> None:
    before, inputs = held(program), list(program.graph.inputs)
    with pytest.raises(ZeroDivisionError), weights_aside(program.model):
        _ = 1 // 0
    assert_holds_the_same(program, before)
    assert list(program.graph.inputs) == inputs


def test_the_limit_says_what_is_big(program: Program) -> None:
    nbytes = program.graph.initializers["table"].const_value.nbytes
    with weights_aside(program.model, limit=nbytes) as aside:
        assert {value.name for value in aside} == {"left", "right"}


# Through protobuf ---------------------------------------------------------------------------------


def test_through_proto_keeps_the_very_weights(program: Program) -> None:
    before = {name: tensor for name, tensor in held(program).items() if name in BIG}
    seen: list[set[str]] = []

    def change(proto: onnx.ModelProto) -> onnx.ModelProto:
        seen.append({tensor.name for tensor in proto.graph.initializer})
        return proto

    program.model = through_proto(program.model, change)
    assert not seen[0] & BIG
    after = held(program)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert program.model.ir_version == dialect.IR_VERSION
    legality.check(program, "the round trip")
    assert where(next(iter(program.graph))) == "encoder.padding"


def lose(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.input.remove(_input(proto, "left"))
    return proto


def rename(proto: onnx.ModelProto) -> onnx.ModelProto:
    _input(proto, "left").name = "port"
    return proto


def _input(proto: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    return next(value for value in proto.graph.input if value.name == name)


@pytest.mark.parametrize("change", [lose, rename])
def test_a_lost_weight_is_named(program: Program, change) -> None:
    before = held(program)
    with pytest.raises(RewriteError, match="lost the weight 'left'"):
        through_proto(program.model, change)
    assert_holds_the_same(program, before)


def test_a_weight_that_is_no_longer_read_is_dropped(program: Program) -> None:
    def read_left_twice(proto: onnx.ModelProto) -> onnx.ModelProto:
        for node in proto.graph.node:
            node.input[:] = ["left" if name == "right" else name for name in node.input]
        return proto

    program.model = through_proto(program.model, read_left_twice)
    assert "right" not in program.graph.initializers
    legality.check(program, "the change")


# onnxsim ------------------------------------------------------------------------------------------


def test_onnxsim_keeps_different_weights_of_one_shape_apart(program: Program, texts) -> None:
    expected = interpret.runner(program)(*texts)
    before = held(program)
    simplify.simplify(program)
    legality.check(program, "onnxsim")
    after = held(program)
    assert after["left"] is before["left"] and after["right"] is before["right"]
    products = [node for node in program.graph if node.op_type == "MatMul"]
    assert {node.inputs[1].name for node in products} == {"left", "right"}
    assert sum(1 for _ in dialect.band_attentions(program.graph)) == 1
    # The same ops on the same numbers: onnxsim had nothing to fold here.
    np.testing.assert_array_equal(interpret.runner(program)(*texts), expected)


def test_onnxsim_removes_what_does_nothing(program: Program, texts) -> None:
    expected = interpret.runner(program)(*texts)
    tanh = next(node for node in program.graph if node.op_type == "Tanh")
    idle = ir.node("Identity", [tanh.inputs[0]], name="idle")
    idle.outputs[0].name = "idle"
    insert_before(tanh, [idle])
    tanh.replace_input_with(0, idle.outputs[0])
    simplify.simplify(program)
    assert "Identity" not in program.census()
    np.testing.assert_array_equal(interpret.runner(program)(*texts), expected)


def test_a_lost_attention_is_noticed(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def inline(proto: onnx.ModelProto, **_: object) -> tuple[onnx.ModelProto, bool]:
        return onnx.inliner.inline_local_functions(proto), True

    monkeypatch.setattr(onnxsim, "simplify", inline)
    with pytest.raises(RewriteError, match="left 0 of 1 BandAttention"):
        simplify.simplify(program)


def test_a_result_that_onnxsim_doubts_is_refused(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxsim, "simplify", lambda proto, **_: (proto, False))
    with pytest.raises(RewriteError, match="differs"):
        simplify.simplify(program)


# Constants and names ------------------------------------------------------------------------------


def test_a_constant_never_takes_a_name(program: Program) -> None:
    graph = program.graph
    taken = ["left", "q", INPUT_IDS, EMBEDDING, "left"]
    names = [add_constant(graph, name, np.zeros(2, np.float32)).name for name in taken]
    assert names == ["left_2", "q_2", f"{INPUT_IDS}_2", f"{EMBEDDING}_2", "left_3"]
    assert add_constant(graph, "free", np.zeros(2, np.float32)).name == "free"
    assert unique_name(graph, "free") == "free_2"
    assert list(legality.faults(program)) == []


@pytest.mark.parametrize(
    "array",
    [
        np.array(3, np.int64),
        np.zeros((0, 4), np.float32),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.array([True, False]),
        np.arange(6, dtype=np.float16)[::2],
    ],
    ids=["scalar", "empty", "transposed", "bool", "strided"],
)
def test_a_constant_is_what_was_given(program: Program, array: np.ndarray) -> None:
    value = add_constant(program.graph, "c", array)
    assert tuple(value.shape or ()) == array.shape
    assert value.dtype == ir.DataType.from_numpy(array.dtype)
    found = constant(value)
    assert found is not None and found.shape == array.shape
    np.testing.assert_array_equal(found, array)
    stored = onnx.numpy_helper.to_array(ir.to_proto(value.const_value))
    assert stored.shape == array.shape
    np.testing.assert_array_equal(stored, array)


def test_what_is_no_constant_has_no_array(program: Program) -> None:
    assert constant(program.graph.inputs[0]) is None
    assert constant(program.graph.outputs[0]) is None
    assert constant(None) is None


def test_what_no_output_needs_is_dropped(program: Program) -> None:
    graph = program.graph
    kept = [node.name for node in graph], set(graph.initializers)
    lonely = add_constant(graph, "lonely", np.ones(3, np.float32))
    value = lonely
    for name in ("one", "two", "three"):
        node = ir.node("Neg", [value], name=name)
        value = node.outputs[0]
        value.name = name
        graph.append(node)
    add_constant(graph, "unread", np.ones(3, np.float32))
    drop_unused(program.model)
    assert ([node.name for node in graph], set(graph.initializers)) == kept


def test_what_is_an_output_is_kept(program: Program) -> None:
    graph = program.graph
    node = ir.node("Neg", [graph.outputs[0]], name="negative")
    node.outputs[0].name = "negative"
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    graph.outputs.append(add_constant(graph, "version", np.array(1, np.int64)))
    drop_unused(program.model)
    assert list(graph)[-1] is node and "version" in graph.initializers


def test_inserted_nodes_inherit_their_module(program: Program) -> None:
    anchor = next(node for node in program.graph if node.op_type == "Tanh")
    one, two = (ir.node("Neg", [anchor.inputs[0]]) for _ in range(2))
    insert_before(anchor, [one])
    insert_before(anchor, [two], module="elsewhere")
    assert (where(one), where(two)) == ("encoder.t", "elsewhere")
    assert list(program.graph).index(one) < list(program.graph).index(anchor)
    with pytest.raises(RewriteError, match="in no graph"):
        insert_before(ir.node("Neg", [anchor.inputs[0]], name="loose"), [])


def test_a_place_is_a_module_or_a_name_or_an_op() -> None:
    node = ir.node("Neg", [], name="n")
    assert where(node) == "n"
    node.metadata_props[MODULE] = "layers.3"
    assert where(node) == "layers.3"
    assert where(ir.node("Neg", [])) == "Neg"


def test_small_constants_are_loaded_and_big_ones_stay(program: Program, tmp_path: Path) -> None:
    ir.save(program.model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    model = ir.load(tmp_path / "m.onnx")
    values = model.graph.initializers
    assert all(isinstance(v.const_value, ir.ExternalTensor) for v in values.values())
    load_small(model.graph, values["b"].const_value.nbytes)
    left_out = {n for n, v in values.items() if isinstance(v.const_value, ir.ExternalTensor)}
    assert left_out == BIG
    for name, value in program.graph.initializers.items():
        found = constant(values[name])
        assert found is not None
        np.testing.assert_array_equal(found, constant(value))
        assert values[name].const_value.name == name


def test_shapes_are_inferred_and_given_ones_stay() -> None:
    program = small.program()
    values = {v.name: v for node in program.graph for v in node.outputs}
    assert all(v.dtype is not None and v.shape is not None for v in values.values())
    assert str(values["l"].shape) == f"[batch,tokens,{small.DIM}]"
    assert values["padding"].dtype == ir.DataType.BOOL

    before = held(program)
    for value in values.values():
        value.shape = None
    values["q"].shape = given = ir.Shape(["batch", 4, "tokens", 10])
    values["l"].type = None
    infer_shapes(program.model)
    assert values["q"].shape is given
    assert values["l"].dtype == ir.DataType.FLOAT
    assert str(values["l"].shape) == f"[batch,tokens,{small.DIM}]"
    assert_holds_the_same(program, before)


def test_a_program_counts_itself(program: Program) -> None:
    assert program.parameters() == (small.VOCAB_SIZE + 2 * small.DIM + 1) * small.DIM + 4 + 3 + 1
    census = program.census()
    assert census["goldfold.BandAttention"] == 1
    assert list(census.items())[:3] == [("MatMul", 2), ("Reshape", 2), ("Transpose", 2)]
    assert sum(census.values()) == len(program.graph)


def test_a_contract_is_frozen_and_closed(program: Program) -> None:
    with pytest.raises(AttributeError):
        program.contract.dim = 3
    with pytest.raises(ValueError, match="colour"):
        read(type(program.contract), {**program.contract.plain(), "colour": "red"})


# Running ------------------------------------------------------------------------------------------


def test_a_program_runs_as_the_file_it_would_be(program: Program, texts, tmp_path: Path) -> None:
    before = held(program)
    got = interpret.runner(program)(*texts)
    assert got.dtype == np.float32 and got.shape == (2, small.DIM)
    assert_holds_the_same(program, before)  # the place-holders are gone
    ir.save(program.model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    feeds = dict(zip((INPUT_IDS, ATTENTION_MASK), texts, strict=True))
    # The same runtime on the same graph and numbers: where the weights lie does not matter.
    np.testing.assert_array_equal(got, session.run([EMBEDDING], feeds)[0])


def test_a_program_runs_from_weights_in_a_file(program: Program, texts, tmp_path: Path) -> None:
    expected = interpret.runner(program)(*texts)
    ir.save(program.model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    loaded = Program(ir.load(tmp_path / "m.onnx"), program.contract)
    np.testing.assert_array_equal(interpret.runner(loaded)(*texts), expected)


def test_a_run_agrees_with_the_reference(program: Program, texts) -> None:
    feeds = dict(zip((INPUT_IDS, ATTENTION_MASK), texts, strict=True))
    got = interpret.runner(program)(*texts)
    harness.widen(program.model)
    reference = harness.Reference(program.model)
    (expected,) = reference(feeds)
    (allowed,) = harness.noise(reference, feeds, [expected])
    # To first order the error grows as the unit roundoff, by 2^29 from f64 to f32.
    assert (np.abs(got - expected) <= 2.0**29 * allowed).all()


def test_a_graph_that_does_not_run_is_refused(program: Program) -> None:
    next(node for node in program.graph if node.op_type == "Tanh").op_type = "Tanhh"
    before = held(program)
    with pytest.raises(RewriteError, match=r"ONNX Runtime refuses the graph: .*Tanhh"):
        interpret.runner(program)
    assert_holds_the_same(program, before)
