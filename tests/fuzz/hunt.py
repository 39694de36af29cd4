"""Draw architectures, check each, and keep what was found."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import check as checking
from tests.fuzz.architecture import Architecture, script
from tests.fuzz.check import Check, Found
from tests.fuzz.drawing import architectures


@dataclass(frozen=True)
class Tried:
    """One architecture and what became of it: `found`, or `fault` in words."""

    architecture: Architecture
    found: Found | None
    fault: str = ""


def drawn(kinds: tuple[str, ...], examples: int, number: int) -> list[Architecture]:
    """`examples` different architectures; the same for the same seed `number`."""
    kept: list[Architecture] = []

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(architectures(kinds))
    def keep(architecture: Architecture) -> None:
        if architecture not in kept:
            kept.append(architecture)

    keep()
    return kept


def hunt(
    kinds: tuple[str, ...], examples: int, number: int, check: Check | None = None
) -> Iterator[Tried]:
    """Check `examples` drawn architectures one by one; a failure does not end the hunt."""
    for architecture in drawn(kinds, examples, number):
        yield attempt(architecture, check or checking.check)


def attempt(architecture: Architecture, check: Check) -> Tried:
    """One architecture; whatever is raised is its fault, since everything drawn is to export."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers' progress bars
            return Tried(architecture, check(architecture))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        return Tried(architecture, None, f"{type(error).__name__}: {reason}")


__all__ = ["Tried", "attempt", "drawn", "hunt", "script"]
