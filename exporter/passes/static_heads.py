"""static-heads: a reshape to heads states its fixed sizes, and copies the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass


@dataclass(frozen=True)
class Shaped:
    node: ir.Node
    given: tuple[int | str | None, ...]
    wanted: tuple[int | str | None, ...]


@dataclass(frozen=True)
class StaticHeads(Pass):
    """A Reshape with a result of known sizes gets them as a constant, and `0` for the sizes that it
    copies.

    torch computes [batch, tokens, heads, width] at run time and sets `allowzero`; OpenVINO, NNCF
    and TensorRT all fail on that with grouped heads.

    holds:
        Reshape(x[b,t,…], [b, t, H, D]) = Reshape(x[b,t,…], [0, 0, H, D]), where 0 copies

    needs:
        every size of the result is fixed, or is the size of the same axis of x; one may be left
        over (−1). No fixed size is zero.

    before:
        f (float[B,T,6] x) => (float[B,T,2,3] y)
        {
            batch = Shape <start: int = 0, end: int = 1> (x)
            tokens = Shape <start: int = 1, end: int = 2> (x)
            heads = Constant <value_ints: ints = [2, 3]> ()
            shape = Concat <axis: int = 0> (batch, tokens, heads)
            y = Reshape <allowzero: int = 1> (x, shape)
        }

    after:
        f (float[B,T,6] x) => (float[B,T,2,3] y)
        {
            shape = Constant <value: tensor = int64[4] {0, 0, 2, 3}> ()
            y = Reshape(x, shape)
        }

    refuses: two sizes of the result are new
        # says more than one size of the result ['P', 'Q', 6] is not known
        f (float[B,T,6] x, int64[3] shape) => (float[P,Q,6] y)
        {
            y = Reshape <allowzero: int = 1> (x, shape)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT
    required: ClassVar[bool] = True

    def match(self, node: ir.Node) -> Shaped | None:
        if node.domain or node.op_type != "Reshape":
            return None
        allowzero = node.attributes.get("allowzero")
        target = constant(node.inputs[1])
        if not (allowzero is not None and allowzero.value) and target is not None:
            return None
        x, y = node.inputs[0], node.outputs[0]
        if x is None or x.shape is None or y.shape is None:
            return None
        return Shaped(node, _sizes(x.shape), _sizes(y.shape))

    def refuses(self, match: Shaped) -> str | None:
        target = _target(match)
        if target.count(-1) > 1:
            return f"more than one size of the result {list(match.wanted)} is not known"
        if any(size == 0 for size in match.wanted):
            return "the result is empty"
        return None

    def construct(self, match: Shaped, memo: dict) -> None:
        node = match.node
        graph = node.graph
        assert graph is not None
        target = tuple(_target(match))
        if target not in memo:
            array = np.array(target, dtype=np.int64)
            memo[target] = add_constant(graph, f"{node.name}.shape", array)
        node.replace_input_with(1, memo[target])
        node.attributes.pop("allowzero", None)


def _sizes(shape: ir.Shape) -> tuple[int | str | None, ...]:
    return tuple(d if isinstance(d, int) else d.value for d in shape)


def _target(match: Shaped) -> list[int]:
    """The constant shape: a fixed size, 0 where the same axis of x has the same symbol, else −1."""
    target = []
    for axis, size in enumerate(match.wanted):
        same = axis < len(match.given) and match.given[axis] == size and size is not None
        target.append(size if isinstance(size, int) else 0 if same else -1)
    return target
