"""What the laws that spell attention share: nodes in front of one attention, and one finite mask
for all layers that see alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from exporter import dialect
from exporter.program import add_constant, insert_before, unique_name


class Emitter:
    """Writes nodes in front of one attention node, and shares through the memo what layers
    share."""

    def __init__(self, node: ir.Node, memo: dict) -> None:
        assert node.graph is not None
        self.node, self.graph, self.memo = node, node.graph, memo
        self.stem = (node.outputs[0].name or "attention").removesuffix(".BandAttention")

    def __call__(self, op: str, *inputs: ir.Value, name: str, **attributes: Any) -> ir.Value:
        node = ir.node(op, list(inputs), attributes)
        node.name = node.outputs[0].name = unique_name(self.graph, f"{self.stem}.{name}")
        insert_before(self.node, [node])
        return node.outputs[0]

    def shared(self, op: str, *inputs: ir.Value, name: str | None = None, **attributes: Any):
        """A node without a layer of its own, made once a sweep for the same op and inputs."""
        key = (op, inputs, tuple(sorted((k, str(v)) for k, v in attributes.items())))
        if key not in self.memo:
            node = ir.node(op, list(inputs), attributes)
            wish = f"attention.{name or op}"
            node.name = node.outputs[0].name = unique_name(self.graph, wish)
            insert_before(self.node, [node], module="attention")
            self.memo[key] = node.outputs[0]
        return self.memo[key]

    def array(self, array: np.ndarray, name: str) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.memo:
            self.memo[key] = add_constant(self.graph, f"attention.{name}", array)
        return self.memo[key]

    def ints(self, numbers: list[int] | int) -> ir.Value:
        return self.array(np.array(numbers, dtype=np.int64), "sizes")

    def number(self, number: float, like: ir.Value) -> ir.Value:
        kind = like.dtype.numpy() if like.dtype is not None else np.dtype(np.float32)
        return self.array(np.array(number, dtype=kind), "number")

    def mask(self, q: ir.Value, padding: ir.Value, band: dialect.Band) -> ir.Value:
        """[batch, 1, 1 or tokens, tokens]: 0 where seen, HIDDEN where not."""
        seen = self.shared("Unsqueeze", padding, self.ints([1, 2]), name="real")
        if band.window or band.causal:
            seen = self.shared("And", seen, self._band(padding, band), name="seen")
        zero, hidden = self.number(0.0, q), self.number(dialect.HIDDEN, q)
        return self.shared("Where", seen, zero, hidden, name="mask")

    def square_mask(self, q: ir.Value, padding: ir.Value, band: dialect.Band) -> ir.Value:
        """The same as [batch, 1, tokens, tokens], for kernels that do not broadcast its rows."""
        mask = self.mask(q, padding, band)
        if band.window or band.causal:
            return mask
        tokens, one = self._tokens(padding), self.ints([1])
        sizes = self.shared("Concat", one, one, tokens, one, name="rows", axis=0)
        return self.shared("Expand", mask, sizes, name="square")

    def _tokens(self, padding: ir.Value) -> ir.Value:
        return self.shared("Shape", padding, start=1, end=2, name="tokens")

    def _band(self, padding: ir.Value, band: dialect.Band) -> ir.Value:
        """bool [tokens, tokens]: |i − j| < window, and j ≤ i if causal."""
        count = self.shared("Squeeze", self._tokens(padding), name="count")
        position = self.shared("Range", self.ints(0), count, self.ints(1), name="position")
        i = self.shared("Unsqueeze", position, self.ints([1]), name="i")
        j = self.shared("Unsqueeze", position, self.ints([0]), name="j")
        ahead = self.shared("Sub", i, j, name="ahead")
        near = past = None
        if band.window:
            distance = self.shared("Abs", ahead, name="distance")
            near = self.shared("Less", distance, self.ints(band.window), name="near")
        if band.causal:
            past = self.shared("GreaterOrEqual", ahead, self.ints(0), name="past")
        if near is None or past is None:
            return near if past is None else past  # type: ignore[return-value]
        return self.shared("And", near, past, name="band")
