"""The bisection that `bisect` and `locate` share."""

from __future__ import annotations

from collections.abc import Callable


def first_wrong(good: int, bad: int, holds: Callable[[int], bool]) -> int:
    """The first number at which `holds` is false, of those after `good` up to `bad`.

    It is known to hold at `good` and not at `bad`, and is asked in between alone. Assumes, as every
    bisection does, that what is broken stays broken.
    """
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return bad
