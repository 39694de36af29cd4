"""compare-kept-ids: an id is compared with a token's new id, rather than its old one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import add_constant, constant
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.rewriting.pattern import attribute, producer


@dataclass(frozen=True)
class Compared:
    node: ir.Node
    side: int
    """The input that is the looked-up id."""
    lookup: ir.Node


@dataclass(frozen=True)
class CompareKeptIds(Pass):
    """Where a vocabulary is cut, RoBERTa still finds the padding by its id: it looks the new id up
    and compares the old one. The place of that id in the list says the same, and once no other op
    reads the list, it goes.

    holds:
        k[i] = c ⇔ i = j where k[j] = c, for a list k that holds c once

    needs:
        one constant number c, which the constant list holds exactly once

    before:
        f (int64[B,T] x) => (bool[B,T] y)
        {
            kept = Constant <value: tensor = int64[4] {0, 2, 5, 7}> ()
            three = Constant <value_int: int = 3> ()
            zero = Constant <value_int: int = 0> ()
            pad = Constant <value_int: int = 5> ()
            new = Clip(x, zero, three)
            old = Gather(kept, new)
            y = Equal(old, pad)
        }

    after:
        f (int64[B,T] x) => (bool[B,T] y)
        {
            three = Constant <value_int: int = 3> ()
            zero = Constant <value_int: int = 0> ()
            pad = Constant <value_int: int = 2> ()
            new = Clip(x, zero, three)
            y = Equal(new, pad)
        }

    refuses: the list does not hold the number
        # says the list holds 4 0 times, not once
        f (int64[B,T] x) => (bool[B,T] y)
        {
            kept = Constant <value: tensor = int64[3] {0, 2, 5}> ()
            pad = Constant <value_int: int = 4> ()
            old = Gather(kept, x)
            y = Equal(old, pad)
        }

    refuses: the list holds the number twice
        # says the list holds 2 2 times, not once
        f (int64[B,T] x) => (bool[B,T] y)
        {
            kept = Constant <value: tensor = int64[3] {0, 2, 2}> ()
            pad = Constant <value_int: int = 2> ()
            old = Gather(kept, x)
            y = Equal(old, pad)
        }

    ignores: two ids are compared with each other
        f (int64[B,T] x, int64[B,T] z) => (bool[B,T] y)
        {
            kept = Constant <value: tensor = int64[3] {0, 2, 5}> ()
            old = Gather(kept, x)
            y = Equal(old, z)
        }
    """

    equality: ClassVar[Equality] = Equality.EXACT

    def match(self, node: ir.Node) -> Compared | None:
        if node.op_type != "Equal" or node.domain:
            return None
        for side in (0, 1):
            lookup = producer(node.inputs[side], "Gather")
            number = constant(node.inputs[1 - side])
            if lookup is None or number is None or number.size != 1 or number.ndim > 1:
                continue
            kept = constant(lookup.inputs[0])
            whole = kept is not None and kept.ndim == 1 and kept.dtype.kind == "i"
            if whole and attribute(lookup, "axis", 0) == 0:
                return Compared(node, side, lookup)
        return None

    def refuses(self, match: Compared) -> str | None:
        number, places = _places(match)
        if len(places) != 1:
            return f"the list holds {number} {len(places)} times, not once"
        return None

    def construct(self, match: Compared, memo: dict) -> None:
        node, other = match.node, match.node.inputs[1 - match.side]
        ids = match.lookup.inputs[1]
        assert node.graph is not None and other is not None and ids is not None
        number, kind = constant(other), ids.dtype
        assert kind is not None and number is not None
        _, places = _places(match)
        place = np.array(places[0], kind.numpy()).reshape(number.shape)
        # k[i] = c ⇔ i = j where k[j] = c
        new = add_constant(node.graph, f"{other.name}.kept", place)
        node.replace_input_with(1 - match.side, new)
        node.replace_input_with(match.side, ids)


def _places(match: Compared) -> tuple[int, np.ndarray]:
    """The number that is compared, and its places in the list."""
    kept, number = constant(match.lookup.inputs[0]), constant(match.node.inputs[1 - match.side])
    assert kept is not None and number is not None
    wanted = int(np.asarray(number).reshape(-1)[0])
    return wanted, np.flatnonzero(np.asarray(kept) == wanted)
