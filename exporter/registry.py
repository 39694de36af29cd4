"""Find a target by name, without importing any vendor's package before it is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from exporter.errors import TargetError

if TYPE_CHECKING:
    from targets.base import Target

GROUP = "goldfold.targets"
OURS = ("onnxruntime", "openvino", "tensorrt", "coreml")
"""The targets in this distribution; others register under the entry-point group GROUP."""


def names() -> list[str]:
    """Every target that can be asked for, ours first."""
    others = sorted({point.name for point in entry_points(group=GROUP)} - set(OURS))
    return [*OURS, *others]


def target(name: str) -> Target:
    """The target called `name`. Raises TargetError, listing the known ones."""
    if name in OURS:
        return import_module(f"targets.{name}").TARGET
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()
    raise TargetError(f"unknown target {name!r}; known targets: {', '.join(names())}")


def offered(name: str, precision: str) -> Target:
    """The target, if it offers `precision` and can work on this machine; else TargetError."""
    found = target(name)
    if precision not in found.precisions:
        raise TargetError(
            f"target {name} does not offer precision {precision!r}; "
            f"it offers {', '.join(found.precisions)}"
        )
    reason = found.unavailable()
    if reason is not None:
        cure = f"; install it with: pip install 'goldfold[{found.extra}]'" if found.extra else ""
        raise TargetError(f"target {name} cannot be used here: {reason}{cure}")
    return found
