"""The bisection of `bisect` and `locate`."""

from __future__ import annotations

from collections.abc import Callable


def first_wrong(good: int, bad: int, holds: Callable[[int], bool]) -> int:
    """Returns the first number at which `holds` is false, of those after `good` up to `bad`.

    `holds` is known to be true at `good` and false at `bad`, and is called only in between.
    Assumes, as every bisection does, that a broken program stays broken.
    """
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return bad
