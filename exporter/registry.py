"""The registry finds a target by name, and imports a vendor's package only once its target is asked
for."""

from __future__ import annotations

import platform
from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING

from goldfold.exporter.errors import TargetError

if TYPE_CHECKING:
    from goldfold.targets.base import Target

GROUP = "goldfold.targets"
FLOATS = ("fp32", "fp16", "bf16")
"""Precisions without integers; every other one is the name of a recipe (exporter/quantize/)."""
OURS = ("onnxruntime", "openvino", "tensorrt", "coreml")
"""The targets in this distribution; others register under the entry-point group GROUP."""


def names() -> list[str]:
    """Returns the names of all targets, ours first."""
    from importlib.metadata import entry_points

    others = sorted({point.name for point in entry_points(group=GROUP)} - set(OURS))
    return [*OURS, *others]


def target(name: str) -> Target:
    """Returns the target called `name`. Raises TargetError, listing the known ones."""
    if name in OURS:
        return import_module(f"goldfold.targets.{name}").TARGET
    from importlib.metadata import entry_points  # slow, and rarely asked

    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()
    raise TargetError(f"unknown target {name!r}; known targets: {', '.join(names())}")


def floating(name: str, precision: str, around: str | None = None) -> str:
    """Returns the floating-point precision that the target computes in around integers, as
    Recipe.around wants it; `precision` itself where there are no integers."""
    if precision in FLOATS:
        return precision
    found = target(name)
    return found.close_fallback or found.fallback if around == "close" else found.fallback


def unavailable(name: str) -> str | None:
    """Returns why the target called `name` cannot build on this machine, and the cure; None if it
    can."""
    found = target(name)
    reason = found.unavailable()
    if reason is None:
        return None
    here = f"{platform.system()} {platform.machine()}"
    if found.platforms and here not in found.platforms:
        return f"{reason}; its vendor has packages for {', '.join(found.platforms)}, not {here}"
    return (
        f"{reason}; install it with: pip install 'goldfold[{found.extra}]'"
        if found.extra
        else reason
    )


def offered(name: str, precision: str, needs: Collection[str] = ()) -> Target:
    """Returns the target if it offers `precision` and the integers that `needs` lists
    (Recipe.needs), and works on this machine; otherwise raises TargetError."""
    found = target(name)
    lacks = sorted(set(needs) - found.quantizes)
    if lacks:
        raise TargetError(
            f"target {name} does not offer precision {precision!r}: it has no {', '.join(lacks)}"
        )
    if not needs and floating(name, precision) not in found.precisions:
        raise TargetError(
            f"target {name} does not offer precision {precision!r}; "
            f"it offers {', '.join(found.precisions)}"
        )
    reason = unavailable(name)
    if reason is not None:
        raise TargetError(f"target {name} cannot be used here: {reason}")
    return found
