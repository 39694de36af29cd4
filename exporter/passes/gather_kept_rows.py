"""gather-kept-rows: a table that is looked up through a list of its rows holds these rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.derivation import Derived, Expr, chosen
from goldfold.exporter.ir.program import add_constant, constant, derivation_of
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import attribute, producer
from goldfold.exporter.passes.rewriting.writer import Writer, module_of

_ROWWISE = ("packed", "cast")
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
            memo[key] = _Rows(match, memo).table()
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


class _Rows:
    """The kept rows of one table, and their derivations: rows of integers are integers of the same
    rows of the weights."""

    def __init__(self, match: Lookup, memo: dict) -> None:
        graph = match.gather.graph
        assert graph is not None
        self.match, self.graph, self.kept = match, graph, match.kept
        self.rows = np.asarray(match.kept)
        # Tables share the numbers that were chosen for them, as integers do with their scales.
        self.known: dict[Expr, Expr] = memo.setdefault(("taken", match.ids.inputs[0]), {})

    def table(self) -> ir.Value:
        """The table with the kept rows alone, dequantized where it was."""
        node = self.match.dequantize
        if node is None:
            return self._constant(self.match.table)
        table = constant(self.match.table)
        assert table is not None
        blocks, axis = attribute(node, "block_size", 0), attribute(node, "axis", 1) % table.ndim
        inputs: list[ir.Value | None] = []
        for value in node.inputs:
            array = constant(value)
            own = value is self.match.table or blocks or axis == 0
            if value is None or array is None or array.ndim == 0 or not own:
                inputs.append(value)
            else:
                inputs.append(self._constant(value))
        made = node.outputs[0]
        given: dict[str, Any] = {name: one.value for name, one in node.attributes.items()}
        sizes = None if made.shape is None else [len(self.rows), *list(made.shape)[1:]]
        write = Writer(node, made.name or "", module_of(made))
        return write("DequantizeLinear", *inputs, name="kept", type=made.type, shape=sizes, **given)

    def _constant(self, value: ir.Value) -> ir.Value:
        array = constant(value)
        assert array is not None
        how = self._taken(array.derivation)
        return add_constant(self.graph, f"{value.name}.kept", np.asarray(array)[self.rows], how)

    def _taken(self, x: Expr) -> Expr:
        """The derivation of the rows of an array from the array's."""
        if x not in self.known:
            self.known[x] = self._made(x)
        return self.known[x]

    def _made(self, x: Expr) -> Expr:
        if x.op in ("nearest", "steps"):
            weights, scale, *given = x.args
            return Expr(x.op, (self._taken(weights), self._taken(scale), *given))
        if x.op == "chosen" and (numbers := self._numbers(x)) is not None:
            return chosen(numbers)
        if x.op == "reshape" and _first(x.args[0]) == x.args[1]:
            return Expr("reshape", (self._taken(x.args[0]), len(self.rows), *x.args[2:]))
        if x.op in _ROWWISE:
            return Expr(x.op, (self._taken(x.args[0]), *x.args[1:]))
        return Expr("take", (x, 0, self.kept.derivation))

    def _numbers(self, x: Expr) -> np.ndarray | None:
        """The rows of numbers that were chosen, in the type and shape in which they were; None
        where no constant of the graph holds them."""
        kind, shape, _ = x.args
        for value in self.graph.initializers.values():
            if value.const_value is None:
                continue
            how = derivation_of(value)
            while how.op in ("reshape", "cast"):
                how = how.args[0]
            if how is x:
                return np.asarray(constant(value)).reshape(shape).astype(kind)[self.rows]
        return None


def _first(x: Expr) -> int | None:
    """The first size of numbers that were chosen, rounded or not."""
    while x.op == "cast":
        x = x.args[0]
    return x.args[1][0] if x.op == "chosen" and x.args[1] else None
