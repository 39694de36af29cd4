"""The writer of nodes: new names, places, source modules, and what takes a value's place."""

from __future__ import annotations

import onnx_ir as ir

from goldfold.exporter.ir.program import MODULE
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.rewriting.writer import (
    Writer,
    append,
    emit,
    supplant,
    swap_names,
    take_over,
)

GRAPH = """
    f (float[B,4] x) => (float[B,4] y)
    {
        h = Neg(x)
        y = Tanh(h)
    }
"""


def made() -> tuple[ir.Model, ir.Node, ir.Node]:
    model = docstring.graph(GRAPH)
    neg, tanh = model.graph
    neg.metadata_props[MODULE], tanh.metadata_props[MODULE] = "first", "second"
    return model, neg, tanh


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_nodes_stand_in_front_with_new_names_and_the_module_of_their_place() -> None:
    model, neg, tanh = made()
    write, x = Writer(tanh, "stem"), neg.inputs[0]
    one = write("Abs", x, name="a", type=x.type, shape=[None, 4])  # type: ignore[union-attr]
    two = write("Abs", one, name="a")
    assert (one.name, two.name) == ("stem.a", "stem.a_2")
    assert one.producer().name == "stem.a"  # type: ignore[union-attr]
    assert one.dtype == ir.DataType.FLOAT and len(one.shape or ()) == 2 and two.type is None
    assert ops(model) == ["Neg", "Abs", "Abs", "Tanh"]
    assert one.producer().metadata_props[MODULE] == "second"  # type: ignore[union-attr]
    given = Writer(tanh, module="own")("Abs", x, name="b").producer()
    like = emit(tanh, "Abs", [x], "c", neg.outputs[0], None).producer()
    assert given is not None and given.metadata_props[MODULE] == "own"
    assert like is not None and like.metadata_props[MODULE] == "first"


def test_nodes_stand_at_the_end_of_a_graph_and_may_have_parts() -> None:
    model, neg, _ = made()
    write = Writer(model.graph, "head", "heads")
    one, two = write.parts("Split", neg.outputs[0], name="split", into=["p", "h"], axis=-1)
    assert (one.name, two.name) == ("p", "h_2") and ops(model)[-1] == "Split"
    node = one.producer()
    assert node is not None and (node.name, node.metadata_props[MODULE]) == ("head.split", "heads")


def test_a_node_takes_the_place_of_another() -> None:
    model, neg, tanh = made()
    neg.name = "known"
    value = supplant(neg.outputs[0], "Abs", neg.inputs[0])
    assert (value.name, value.producer().name) == ("h", "known")  # type: ignore[union-attr]
    assert tanh.inputs[0] is value and ops(model) == ["Abs", "Tanh"]
    other = Writer(tanh)("Sigmoid", value, name="s")
    take_over(tanh.outputs[0], other)
    assert model.graph.outputs[0] is other and other.name == "y"


def test_a_node_behind_a_value_is_read_in_its_place() -> None:
    model, neg, tanh = made()
    h = neg.outputs[0]
    behind = append(h, "Abs", name="later")
    assert tanh.inputs[0] is behind and behind.dtype == h.dtype
    assert ops(model) == ["Neg", "Abs", "Tanh"]
    swap_names(h, behind, "h.before")
    assert (h.name, behind.name) == ("h.before", "h")
    last = append(tanh.outputs[0], "Neg", name="end")
    assert model.graph.outputs[0] is last
