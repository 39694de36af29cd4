"""Which constant of an artifact is which of the program: by its name, or else by its bytes.

A format may hold a constant in another shape, transposed, or in another kind of numbers. A name
decides where there is one: a constant that holds another's numbers is a fault, however right they
would be elsewhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds
from goldfold.golden.proof.expressions import Constant
from goldfold.golden.proof.stored import Stored

SMALL = 64
"""Integers up to which a constant is a shape or an axis."""
_PART = 1 << 22


@dataclass(frozen=True, slots=True)
class View:
    """A stored constant as one of the program's; `turned` if the file holds its transpose."""

    stored: Stored
    turned: bool = False

    def reader(self) -> Callable[[int, int], np.ndarray]:
        """Returns a function of first position and count that gives numbers, exactly widened, in
        the program's C order."""
        if not self.turned:
            return self.stored.numbers
        whole = self.stored.numbers().reshape(self.stored.shape).T.reshape(-1)
        return lambda first, count: whole[first : first + count]

    def digest(self, kind: str) -> str:
        """Returns the sha256 of the bytes that the program would hold in a kind; "" if the kind
        cannot hold them."""
        if not self.turned and kind == self.stored.kind:
            return self.stored.digest()
        found, numbers = hashlib.sha256(), self.reader()
        try:
            for first in range(0, self.stored.count, _PART):
                part = numbers(first, min(_PART, self.stored.count - first))
                raw = np.ascontiguousarray(kinds.narrow(part, kind))
                if kind != self.stored.kind and not np.array_equal(kinds.rounded(part, kind), part):
                    return ""
                found.update(raw.data)
        except GoldenError:
            return ""
        return found.hexdigest()


def views(line: Constant, stored: Stored) -> list[View]:
    """Returns the ways in which a stored constant could be a line's: none if it has another number
    of numbers, or integers for floating ones."""
    floating = (line.kind in kinds.FLOATS) == (stored.kind in kinds.FLOATS)
    if stored.kind not in kinds.KINDS or not floating or stored.count != math.prod(line.shape):
        return []
    turned = len(line.shape) == 2 and stored.shape == line.shape[::-1] and min(line.shape) > 1
    same = not turned or line.shape == stored.shape
    return [View(stored)] * same + [View(stored, True)] * turned


def match(
    lines: Sequence[Constant], stored: Sequence[Stored], respelt: bool = False
) -> dict[str, list[View]]:
    """Returns the stored constants that are a line's, by its name. A line may have several, where
    functions of one program share it, and one stored constant may be of several lines. Where sizes
    are `respelt`, the name of one decides nothing."""
    named: dict[str, list[Stored]] = {}
    for one in stored:
        named.setdefault(one.name, []).append(one)
    found: dict[str, list[View]] = {}
    for line in lines:
        if respelt and is_small(line.kind, line.shape):
            continue
        ways = [ways for one in named.get(line.name, []) if (ways := views(line, one))]
        if ways:
            found[line.name] = [_fitting(line, way) for way in ways]
    claimed = {id(view.stored) for held in found.values() for view in held}
    by_size: dict[int, list[Stored]] = {}
    for one in stored:
        if id(one) not in claimed:
            by_size.setdefault(one.count, []).append(one)
    digests: dict[tuple[int, bool, str], str] = {}
    for line in lines:
        if line.name in found:
            continue
        for one in by_size.get(math.prod(line.shape), []):
            for view in views(line, one):
                key = (id(one), view.turned, line.kind)
                if key not in digests:
                    digests[key] = view.digest(line.kind)
                if digests[key] == line.digest:
                    found.setdefault(line.name, []).append(view)
                    break
    return found


def copies(stored: Sequence[Stored], claimed: set[int]) -> set[int]:
    """Returns the ids of constants of no line that are byte by byte one of those that are."""
    free = [one for one in stored if id(one) not in claimed]
    sizes = {(one.kind, one.size) for one in free}
    known = {
        (one.kind, one.digest())
        for one in stored
        if id(one) in claimed and (one.kind, one.size) in sizes
    }
    return {id(one) for one in free if (one.kind, one.digest()) in known}


def is_small(kind: str, shape: Sequence[int]) -> bool:
    """Returns whether a constant is a shape or an axis, which a format may add or leave out."""
    return kind in (*kinds.INTEGERS, "bool") and math.prod(shape) <= SMALL


def _fitting(line: Constant, ways: list[View]) -> View:
    """Returns the way in which the digest is right; where it is wrong in all, the first."""
    if len(ways) == 1:
        return ways[0]
    return next((view for view in ways if view.digest(line.kind) == line.digest), ways[0])
