"""gather-kept-rows: a table that is looked up through a list of its rows holds these rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.derivation import Derived, Expr, chosen, derived
from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import attribute, producer
from goldfold.exporter.passes.rewriting.writer import Writer, module_of

_ELEMENTWISE = ("packed", "cast")
"""Functions of which a row follows from the same row of their first argument."""


@dataclass(frozen=True)
class Lookup:
    gather: ir.Node
    ids: ir.Node
    """The lookup of the kept ids."""
    dequantize: ir.Node | None

    @property
    def table(self) -> ir.Value:
        table = (self.dequantize or self.gather).inputs[0]
        assert table is not None
        return table

    @property
    def kept(self) -> Derived:
        kept = constant(self.ids.inputs[0])
        assert kept is not None
        return kept


@dataclass(frozen=True)
class GatherKeptRows(Pass):
    """A vocabulary that is cut (exporter/driver/cutting.py) looks its own ids up in a list of the
    source's, and the result in the source's table. The table then needs only the rows of the list,
    in its order, and nothing is looked up twice: EmbeddingGemma's 262,144 rows become 167,064 for
    texts in Latin letters.

    Integers keep the scale of their row, or of their block of a row.

    holds:
        T[k[i]] = (T[k])[i]; ((Q − z) · s)[k[i]] = ((Q[k] − z[k]) · s[k])[i]

    needs:
        a constant table, whole rows of which are looked up (axis 0), by a constant list of fewer of
        them; nothing else reads the table. Integers with a scale for all, per row, per column, or
        per block of a row.

    before:
        f (int64[B,T] x, float[5,3] table) => (float[B,T,3] y)
        {
            kept = Constant <value: tensor = int64[3] {0, 2, 4}> ()
            one = Constant <value_int: int = 1> ()
            two = Constant <value_int: int = 2> ()
            zero = Constant <value_int: int = 0> ()
            new = Clip(x, zero, two)
            old = Gather(kept, new)
            y = Gather(table, old)
        }

    after:
        f (int64[B,T] x, float[3,3] rows) => (float[B,T,3] y)
        {
            two = Constant <value_int: int = 2> ()
            zero = Constant <value_int: int = 0> ()
            new = Clip(x, zero, two)
            y = Gather(rows, new)
        }

    before: integers with a scale per row
        f (int64[B,T] x, int8[5,4] table, float[5] s) => (float[B,T,4] y)
        {
            kept = Constant <value: tensor = int64[3] {1, 2, 4}> ()
            two = Constant <value_int: int = 2> ()
            zero = Constant <value_int: int = 0> ()
            new = Clip(x, zero, two)
            old = Gather(kept, new)
            d = DequantizeLinear <axis: int = 0> (table, s)
            y = Gather(d, old)
        }

    after: integers with a scale per row
        f (int64[B,T] x, int8[3,4] rows, float[3] s) => (float[B,T,4] y)
        {
            two = Constant <value_int: int = 2> ()
            zero = Constant <value_int: int = 0> ()
            new = Clip(x, zero, two)
            d = DequantizeLinear <axis: int = 0> (rows, s)
            y = Gather(d, new)
        }

    before: a scale per block, and two lookups
        f (int64[B,T] x, int64[B,T] z, int8[5,4] table, float[5,2] s)
            => (float[B,T,4] y, float[B,T,4] w)
        {
            kept = Constant <value: tensor = int64[2] {0, 3}> ()
            one = Constant <value_int: int = 1> ()
            zero = Constant <value_int: int = 0> ()
            new = Clip(x, zero, one)
            new2 = Clip(z, zero, one)
            old = Gather(kept, new)
            old2 = Gather(kept, new2)
            d = DequantizeLinear <axis: int = 1, block_size: int = 2> (table, s)
            y = Gather(d, old)
            w = Gather(d, old2)
        }

    after: a scale per block, and two lookups
        f (int64[B,T] x, int64[B,T] z, int8[2,4] rows, float[2,2] s)
            => (float[B,T,4] y, float[B,T,4] w)
        {
            one = Constant <value_int: int = 1> ()
            zero = Constant <value_int: int = 0> ()
            new = Clip(x, zero, one)
            new2 = Clip(z, zero, one)
            d = DequantizeLinear <axis: int = 1, block_size: int = 2> (rows, s)
            y = Gather(d, new)
            w = Gather(d, new2)
        }

    refuses: a product reads the table as well
        # says MatMul reads table, too
        f (int64[B,T] x, float[B,3] h, float[3,3] table) => (float[B,T,3] y, float[B,3] z)
        {
            kept = Constant <value: tensor = int64[2] {0, 2}> ()
            old = Gather(kept, x)
            y = Gather(table, old)
            z = MatMul(h, table)
        }

    refuses: ids from the end
        # says its rows may be counted from the end
        f (int64[B,T] x, float[5,3] table) => (float[B,T,3] y)
        {
            kept = Constant <value: tensor = int64[2] {0, -1}> ()
            old = Gather(kept, x)
            y = Gather(table, old)
        }

    refuses: a list that repeats rows
        # says 4 rows would take the place of 3
        f (int64[B,T] x, float[3,3] table) => (float[B,T,3] y)
        {
            kept = Constant <value: tensor = int64[4] {0, 1, 2, 1}> ()
            old = Gather(kept, x)
            y = Gather(table, old)
        }

    refuses: blocks of several rows
        # says a scale is shared by several rows
        f (int64[B,T] x, int8[4,3] table, float[2,3] s) => (float[B,T,3] y)
        {
            kept = Constant <value: tensor = int64[2] {0, 2}> ()
            old = Gather(kept, x)
            d = DequantizeLinear <axis: int = 0, block_size: int = 2> (table, s)
            y = Gather(d, old)
        }

    ignores: the table is no constant
        f (int64[B,T] x, float[B,3] table) => (float[B,T,3] y)
        {
            kept = Constant <value: tensor = int64[2] {0, 1}> ()
            old = Gather(kept, x)
            y = Gather(table, old)
        }

    ignores: columns are looked up
        f (int64[B,T] x, float[3,5] table) => (float[3,B,T] y)
        {
            kept = Constant <value: tensor = int64[2] {0, 1}> ()
            old = Gather(kept, x)
            y = Gather <axis: int = 1> (table, old)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> Lookup | None:
        if not _looks_up(node):
            return None
        ids = producer(node.inputs[1], "Gather")
        kept = None if ids is None or not _looks_up(ids) else constant(ids.inputs[0])
        if ids is None or kept is None or kept.ndim != 1 or kept.dtype.kind != "i":
            return None
        dequantize = producer(node.inputs[0], "DequantizeLinear")
        table = constant((dequantize or node).inputs[0])
        return None if table is None or not table.ndim else Lookup(node, ids, dequantize)

    def refuses(self, match: Lookup) -> str | None:
        table, kept = constant(match.table), np.asarray(match.kept)
        assert table is not None
        if not kept.size or kept.min() < 0:
            return "its rows may be counted from the end"
        if kept.max() >= len(table):
            return f"row {kept.max():,} of {len(table):,} is not there"
        if len(kept) > len(table):
            return f"{len(kept):,} rows would take the place of {len(table):,}"
        inner = (match.table,)
        if match.dequantize is not None:
            inner += (match.dequantize.outputs[0],)
            if said := _shared_scale(match.dequantize):
                return said
        for value in inner:
            if value.is_graph_output():
                return f"{value.name} is an output of the graph"
            for reader, _ in value.uses():
                same = _looks_up(reader) and _kept_of(reader) is match.ids.inputs[0]
                if reader is not match.dequantize and not same:
                    return f"{reader.op_type} reads {value.name}, too"
        return None

    def construct(self, match: Lookup, memo: dict) -> None:
        gather, key = match.gather, (match.gather.inputs[0], match.ids.inputs[0])
        if key not in memo:
            memo[key] = _cut(match)
        # T[k[i]] = (T[k])[i]
        gather.replace_input_with(0, memo[key])
        gather.replace_input_with(1, match.ids.inputs[1])


def _looks_up(node: ir.Node) -> bool:
    return node.op_type == "Gather" and not node.domain and attribute(node, "axis", 0) == 0


def _kept_of(gather: ir.Node) -> ir.Value | None:
    """The list through which a lookup reads its table, if there is one."""
    ids = producer(gather.inputs[1], "Gather")
    return None if ids is None or not _looks_up(ids) else ids.inputs[0]


def _shared_scale(node: ir.Node) -> str | None:
    """Why a row's scale is not its own, in words; None where it is, or is everyone's."""
    table, scale = constant(node.inputs[0]), constant(node.inputs[1])
    assert table is not None
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if scale is None or (zero is not None and constant(zero) is None):
        return "its scale is no constant"
    if attribute(node, "block_size", 0) and attribute(node, "axis", 1) % table.ndim == 0:
        return "a scale is shared by several rows"
    return None


def _cut(match: Lookup) -> ir.Value:
    """The table with the kept rows alone, dequantized where it was."""
    kept, graph, node = match.kept, match.gather.graph, match.dequantize
    assert graph is not None
    rows = np.asarray(kept)
    table = constant(match.table)
    assert table is not None
    if node is None:
        taken = derived(np.asarray(table)[rows], _taken(table.derivation, kept, {}))
        return add_constant(graph, f"{match.table.name}.kept", taken)  # type: ignore[arg-type]
    blocks, axis = attribute(node, "block_size", 0), attribute(node, "axis", 1) % table.ndim
    inputs: list[ir.Value | None] = []
    known: dict[Expr, Expr] = {}
    for value in reversed(node.inputs):  # the scale first: its numbers are those of the table's
        array = constant(value)
        if value is None or array is None:
            inputs.append(None)
        elif value is not match.table and (array.ndim == 0 or not (blocks or axis == 0)):
            inputs.append(value)
        else:
            part = np.asarray(array)[rows]
            how = _taken(array.derivation, kept, known, part)
            inputs.append(add_constant(graph, f"{value.name}.kept", part, how))
    write = Writer(node, node.outputs[0].name or "", module_of(node.outputs[0]))
    shape = node.outputs[0].shape
    given: dict[str, Any] = {name: one.value for name, one in node.attributes.items()}
    sizes = None if shape is None else [len(rows), *list(shape)[1:]]
    return write(
        "DequantizeLinear", *reversed(inputs), name="kept",
        type=node.outputs[0].type, shape=sizes, **given,
    )  # fmt: skip


def _taken(
    x: Expr, kept: Derived, known: dict[Expr, Expr], numbers: np.ndarray | None = None
) -> Expr:
    """The derivation of some rows of an array from the array's: rows of integers are integers of
    the same rows of the weights. `numbers` are the rows themselves, `known` derivations of rows
    that were found before."""
    if x in known:
        return known[x]
    found = Expr("take", (x, 0, kept.derivation))
    if x.op in ("nearest", "steps"):
        weights, scale, *given = x.args
        cut = _taken(weights, kept, known), _taken(scale, kept, known)
        found = Expr(x.op, (*cut, *given))
    elif x.op == "chosen" and numbers is not None:
        found = _chosen(x, numbers)
    elif x.op == "reshape" and _first(x.args[0]) == x.args[1]:
        found = Expr("reshape", (_taken(x.args[0], kept, known, numbers), len(kept), *x.args[2:]))
    elif x.op in _ELEMENTWISE:
        found = Expr(x.op, (_taken(x.args[0], kept, known, numbers), *x.args[1:]))
    known[x] = found
    return found


def _chosen(x: Expr, numbers: np.ndarray) -> Expr:
    """Numbers that were chosen, in the type and shape in which they were, of some rows."""
    kind, shape, _ = x.args
    return chosen(numbers.reshape(-1, *shape[1:]).astype(kind), x.op)


def _first(x: Expr) -> int | None:
    """The first size of numbers that were chosen, rounded or not."""
    while x.op == "cast":
        x = x.args[0]
    return x.args[1][0] if x.op == "chosen" and x.args[1] else None
