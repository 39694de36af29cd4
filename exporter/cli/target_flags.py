"""The options of targets as flags of `goldfold export`: one flag for each field that a target
declares (exporter/options.py)."""

from __future__ import annotations

import sys
from dataclasses import field, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from goldfold.exporter import registry
from goldfold.exporter.cli.console import warn
from goldfold.exporter.cli.flags import whole_numbers
from goldfold.exporter.options import Options, described, flag_of
from goldfold.exporter.system import start

OURS = frozenset({
    "model", "target", "precision", "out", "name", "force", "skip", "stop_after", "dump",
    "verify_each", "no_locate", "max_length", "route", "dims", "judge", "pairs", "unseen",
    "no_cache", "trust_remote_code", "allow_incomplete", "require_run", "quiet", "as_json",
    "scripts", "vocabulary", "revision", "texts", "column", "private_texts", "calibration_texts",
    "fit", "state",
})  # fmt: skip
"""What `goldfold export` takes by itself: an option of a target has no flag of these names, and is
given from Python."""


class Flags:
    """The base of all classes of flags."""

    def given(self) -> dict[str, Any]:
        """Returns the requested options, as `goldfold.export` takes them. Raises UsageError."""
        kinds = {one.name: one.metadata["kind"] for one in fields(self)}  # type: ignore[arg-type]
        asked = {name: getattr(self, name) for name in kinds}
        return {
            name: _value(name, kinds[name], value)
            for name, value in asked.items()
            if value is not None and value is not False and value != []
        }


def _value(name: str, kind: Any, typed: Any) -> Any:
    if get_origin(kind) is tuple:
        return whole_numbers(typed, flag_of(name)) if int in get_args(kind) else tuple(typed)
    return typed


def _names() -> list[str]:
    """Returns the targets whose options are flags: all of them where the command is `export` or
    `ci`, which may take any time to load; none for another command; our own where a program
    asks."""
    if not {"export", "ci"}.isdisjoint(sys.argv[1:]):
        return registry.names()
    return [] if start.is_command() else list(registry.OURS)


def _flag(name: str, kind: Any, told: str) -> tuple[str, Any, Any]:
    typed: Any = kind
    if get_origin(kind) is tuple:
        typed = str | None if int in get_args(kind) else list[str] | None
    words = [flag_of(name)] if kind is bool else []
    default = False if kind is bool else None
    option = Annotated[typed, typer.Option(*words, help=told)]
    return name, option, field(default=default, metadata={"kind": kind})


def _options(target: str) -> type[Options] | None:
    """Returns what a target may be asked for; None, with a warning, for one that does not load."""
    try:
        return registry.target(target).Options
    except Exception as error:
        if target in registry.OURS:
            raise
        reason = (str(error).splitlines() or [""])[0]
        warn(f"target {target} does not load: {type(error).__name__}: {reason}")
        return None


def _made() -> type[Flags]:
    told = described({name: kind for name in _names() if (kind := _options(name)) is not None})
    made = [_flag(name, kind, text) for name, (kind, text) in told.items() if name not in OURS]
    return make_dataclass("TargetFlags", made, bases=(Flags,), frozen=True)


if TYPE_CHECKING:

    class TargetFlags(Flags):
        """One field for each option of any target."""

else:
    TargetFlags = _made()
