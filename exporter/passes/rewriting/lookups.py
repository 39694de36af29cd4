"""Lookups in a dequantized table, and what laws write in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant
from goldfold.exporter.passes.rewriting.pattern import emit


@dataclass(frozen=True)
class Lookup:
    gather: ir.Node
    dequantize: ir.Node
    cast: ir.Node | None = None
    """A change of precision between the two."""


class Writer:
    """Writes nodes in front of one Gather, and shares constants with others of the table.

    The ids must have a shape. `memo` is the sweep's; constants are called after `stem`.
    """

    def __init__(self, match: Lookup, stem: str, memo: dict) -> None:
        ids = match.gather.inputs[1]
        assert ids is not None and ids.shape is not None
        self.match, self.ids, self.memo, self.stem = match, ids, memo, stem
        self.rank = len(ids.shape)
        self.like = match.dequantize.outputs[0]

    def __call__(self, op: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        before = self.match.gather
        wish = f"{before.name or before.outputs[0].name}.{name}"
        return emit(before, op, list(inputs), wish, self.like, None, **attributes)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        key = (self.match.dequantize, name)
        if key not in self.memo:
            graph = self.match.gather.graph
            assert graph is not None
            self.memo[key] = add_constant(graph, f"{self.stem}.{name}", array)
        return self.memo[key]

    def gather(self, table: ir.Value, name: str) -> ir.Value:
        found = self("Gather", table, self.ids, name=name)
        found.type = ir.TensorType(table.dtype)  # type: ignore[arg-type]
        return found

    def reshape(self, value: ir.Value, tail: list[int], name: str) -> ir.Value:
        """The axes of the indices as they are, then `tail`."""
        sizes = np.array([0] * self.rank + tail, np.int64)
        return self("Reshape", value, self.constant(f"{name}.shape.{self.rank}", sizes), name=name)
