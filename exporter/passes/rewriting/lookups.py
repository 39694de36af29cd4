"""Lookups in a dequantized table, and the writer of their replacements."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.derivation import Expr
from goldfold.exporter.ir.program import add_constant
from goldfold.exporter.passes.rewriting.writer import Writer, module_of


@dataclass(frozen=True)
class Lookup:
    gather: ir.Node
    dequantize: ir.Node
    cast: ir.Node | None = None
    """A change of precision between the two."""


class RowWriter(Writer):
    """Writes nodes in front of one Gather, and shares constants with other lookups of the table.

    The ids must have a shape. `memo` is the sweep's; constants are named after `held`.
    """

    def __init__(self, match: Lookup, held: str, memo: dict) -> None:
        ids, gather = match.gather.inputs[1], match.gather
        assert ids is not None and ids.shape is not None
        self.like = match.dequantize.outputs[0]
        super().__init__(gather, gather.name or gather.outputs[0].name or "", module_of(self.like))
        self.match, self.ids, self.memo, self.held = match, ids, memo, held
        self.rank = len(ids.shape)

    def __call__(
        self,
        op: str,
        *inputs: ir.Value | None,
        name: str,
        type: ir.TypeProtocol | None = None,
        shape: Iterable[Any] | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """A node whose value has the type of the dequantized table unless another is given."""
        kind = type or self.like.type
        return super().__call__(op, *inputs, name=name, type=kind, shape=shape, **attributes)

    def constant(self, name: str, array: np.ndarray, how: Expr | None = None) -> ir.Value:
        key = (self.match.dequantize, name)
        if key not in self.memo:
            self.memo[key] = add_constant(self.graph, f"{self.held}.{name}", array, how)
        return self.memo[key]

    def gather(self, table: ir.Value, name: str) -> ir.Value:
        assert table.dtype is not None
        return self("Gather", table, self.ids, name=name, type=ir.TensorType(table.dtype))

    def reshape(self, value: ir.Value, tail: list[int], name: str) -> ir.Value:
        """A reshape that keeps the axes of the indices and appends `tail`."""
        sizes = np.array([0] * self.rank + tail, np.int64)
        return self("Reshape", value, self.constant(f"{name}.shape.{self.rank}", sizes), name=name)
