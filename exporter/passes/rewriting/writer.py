"""The writer gives every node that a rewrite puts into a graph its place, its name, its source
module, and its value's type and shape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx_ir as ir

from goldfold.exporter.ir.program import MODULE, free_name, insert_before, unique_name


class Writer:
    """Writes nodes at one place: in front of a node, or at the end of a graph.

    A node has the name of its value, which no other value has: `stem.name`, or `name` alone
    without a stem. It inherits the source module of the node that it stands in front of unless
    `module` is given.
    """

    def __init__(
        self, place: ir.Node | ir.Graph, stem: str = "", module: str | None = None
    ) -> None:
        graph = place.graph if isinstance(place, ir.Node) else place
        assert graph is not None
        self.graph: ir.Graph = graph  # type: ignore[assignment]
        self.before = place if isinstance(place, ir.Node) else None
        self.stem, self.module = stem, module

    def __call__(
        self,
        op: str,
        *inputs: ir.Value | None,
        name: str,
        type: ir.TypeProtocol | None = None,
        shape: Iterable[Any] | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Write one node of one value; type and shape are unknown unless they are given."""
        node = ir.node(op, list(inputs), attributes)
        value = node.outputs[0]
        value.name = self.named(name)
        # A value may have lost its name to another pass, and its node kept it.
        node.name = free_name({other.name for other in self.graph}, value.name)
        value.type, value.shape = type, None if shape is None else ir.Shape(list(shape))
        self._put(node)
        return value

    def parts(
        self, op: str, *inputs: ir.Value, name: str, into: Sequence[str], **attributes: Any
    ) -> Sequence[ir.Value]:
        """Write one node of several values, which get the names in `into`."""
        node = ir.node(op, list(inputs), attributes, num_outputs=len(into))
        node.name = f"{self.stem}.{name}" if self.stem else name
        self._put(node)
        for value, wish in zip(node.outputs, into, strict=True):
            value.name = unique_name(self.graph, wish)
        return node.outputs

    def named(self, name: str) -> str:
        """The name that a value of the graph gets for this wish."""
        return unique_name(self.graph, f"{self.stem}.{name}" if self.stem else name)

    def _put(self, node: ir.Node) -> None:
        if self.before is not None:
            insert_before(self.before, [node], self.module)
            return
        if self.module is not None:
            node.metadata_props[MODULE] = self.module
        self.graph.append(node)


def emit(
    before: ir.Node,
    op: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    like: ir.Value,
    shape: Iterable[Any] | None,
    **attributes: Any,
) -> ir.Value:
    """Put one node in front of `before`; its value has the type of `like` and the given `shape`,
    and the node has the source module of the producer of `like`."""
    write = Writer(before, module=module_of(like))
    return write(op, *inputs, name=name, type=like.type, shape=shape, **attributes)


def module_of(value: ir.Value) -> str | None:
    """The source module of the producer of `value`, if there is one and it is known."""
    maker = value.producer()
    return None if maker is None else maker.metadata_props.get(MODULE)


def supplant(old: ir.Value, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
    """Put one node in the place of the producer of `old`, under its name; all read its value."""
    maker = old.producer()
    assert maker is not None
    value = Writer(maker)(op, *inputs, name=f"{old.name}.{op}", **attributes)
    node = value.producer()
    assert node is not None
    node.name = maker.name
    take_over(old, value)
    return value


def append(
    value: ir.Value,
    op: str,
    *others: ir.Value,
    name: str,
    type: ir.TypeProtocol | None = None,
    **attributes: Any,
) -> ir.Value:
    """Put op(value, *others) right behind the producer of `value`. All readers of `value` then read
    the result, which has its shape, and its type unless another is given. `name` must be new."""
    maker = value.producer()
    assert maker is not None and maker.graph is not None
    graph = maker.graph
    node = ir.node(op, [value, *others], attributes)
    made = node.outputs[0]
    made.name = node.name = name
    made.type, made.shape = type or value.type, value.shape
    value.replace_all_uses_with(made, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    node.metadata_props.update(maker.metadata_props)
    graph.insert_after(maker, [node])
    return made


def swap_names(value: ir.Value, made: ir.Value, name: str) -> None:
    """Give `made`, which is read in place of `value`, the name of `value`, and `value` `name`."""
    known = value.name
    value.name = unique_name(value.producer().graph, name)  # type: ignore[union-attr, arg-type]
    made.name = known


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Give `new` the readers, name, type and shape of `old`, and its place among the graph's
    outputs."""
    name, producer = old.name, old.producer()
    assert producer is not None and producer.graph is not None
    graph = producer.graph
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = f"{name}~replaced"
    graph.remove(producer, safe=True)
    new.name = name
