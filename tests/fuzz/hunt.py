"""Draw architectures, check each, and keep what was found."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.architecture import Architecture, script
from tests.fuzz.check import Found, check
from tests.fuzz.drawing import architectures


@dataclass(frozen=True)
class Tried:
    """One architecture and what became of it: `found`, or `fault` in words."""

    architecture: Architecture
    found: Found | None
    fault: str = ""
    script: str = ""
    """What raises the fault again."""


def drawn(kinds: tuple[str, ...], examples: int, number: int) -> list[Architecture]:
    """`examples` different architectures; the same for the same seed `number`."""
    kept: list[Architecture] = []
    place = 0
    while len(kept) < examples:
        architecture = _one(kinds, number * 1_000_000 + place)
        place += 1
        if architecture not in kept:
            kept.append(architecture)
    return kept


def _one(kinds: tuple[str, ...], number: int) -> Architecture:
    """The second example of a seed of its own: the first is the simplest there is, and those
    behind it are small changes of one another.

    The second never begins like the first, hence the turning: each kind is the first in turn.
    """
    found: list[Architecture] = []
    turn = number % len(kinds)
    turned = kinds[turn:] + kinds[:turn]

    @seed(number)
    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(architectures(turned))
    def keep(architecture: Architecture) -> None:
        found.append(architecture)

    keep()
    return found[-1]


def hunt(
    kinds: tuple[str, ...], examples: int, number: int, targets: tuple[str, ...] = ()
) -> Iterator[Tried]:
    """Check `examples` drawn architectures one by one; a failure does not end the hunt."""
    for architecture in drawn(kinds, examples, number):
        yield attempt(architecture, targets)


def attempt(architecture: Architecture, targets: tuple[str, ...] = ()) -> Tried:
    """One architecture; whatever is raised is its fault, since everything drawn is to export."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars
            return Tried(architecture, check(architecture, targets))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        fault = f"{type(error).__name__}: {reason}"
        return Tried(architecture, None, fault, script(architecture, targets))
