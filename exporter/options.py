"""Options of a target beyond its precision: the fields of a frozen class that the target declares.

    class CoreMlOptions(Options, frozen=True, kw_only=True):
        buckets: Annotated[tuple[int, ...], Meta(description="static lengths in tokens")] = ()

Each field has a flag on the command line, `--buckets`, and an entry in the manifest. A field is a
`bool`, or an `int` or `str` that may be None, or a tuple of them; its default means that the user
asked for nothing. Two targets may share a field's name; its flag has the type of the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Meta

from goldfold.exporter.errors import UsageError
from goldfold.exporter.records import Record, read


class Options(Record, frozen=True, kw_only=True):
    """The options that one target takes; a target without options has this very class."""

    def given(self) -> dict[str, Any]:
        """Returns the fields that differ from their defaults."""
        nothing = type(self)()
        pairs = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in pairs if value != getattr(nothing, name)}


Asked = Mapping[str, Any] | Options
"""Options by name, for any number of targets; or one target's own."""
Plain = str | int | bool | None | tuple[str | int, ...]
"""The type of an option's value in a manifest."""

O = TypeVar("O", bound=Options)  # noqa: E741 — the options of a target


def own(kind: type[O], asked: Asked) -> O:
    """Returns those of the `asked` options that a target with options of this `kind` takes. Raises
    UsageError for a value of the wrong type."""
    given = _given(asked)
    try:
        return read(kind, {name: given[name] for name in kind.__struct_fields__ if name in given})
    except ValueError as error:
        name, _, said = str(error).partition(": ")
        raise UsageError(f"{flag_of(name.partition('[')[0])}: {said}") from None


def check_taken(asked: Asked, kinds: Mapping[str, type[Options]]) -> None:
    """Raise UsageError for an option that none of the targets takes (`kinds`: options by
    target)."""
    given = _given(asked)
    for name in sorted(given):
        if not any(name in kind.__struct_fields__ for kind in kinds.values()):
            raise UsageError(f"{flag_of(name)} has no meaning for {', '.join(kinds)}; leave it out")


def _given(asked: Asked) -> Mapping[str, Any]:
    if isinstance(asked, Options):
        return asked.given()
    if not isinstance(asked, Mapping) or not all(isinstance(name, str) for name in asked):
        raise UsageError(
            "build is neither a mapping of options by their names nor a target's own Options, but "
            f"{type(asked).__name__}"
        )
    return asked


def flag_of(name: str) -> str:
    """Returns the command-line flag of a field."""
    return "--" + name.replace("_", "-")


def described(kinds: Mapping[str, type[Options]]) -> dict[str, tuple[Any, str]]:
    """Returns the type of every option by its name, and its description with the targets that take
    it."""
    found: dict[str, tuple[Any, str]] = {}
    takers: dict[str, list[str]] = {}
    for target, kind in kinds.items():
        hints = get_type_hints(kind, include_extras=True)
        for name in kind.__struct_fields__:
            told = [m.description or "" for m in _metas(hints[name])]
            plain = (
                get_args(hints[name])[0] if get_origin(hints[name]) is Annotated else hints[name]
            )
            found.setdefault(name, (plain, " ".join(told)))
            takers.setdefault(name, []).append(target)
    return {
        name: (plain, f"{', '.join(sorted(takers[name]))}: {told}")
        for name, (plain, told) in found.items()
    }


def _metas(hint: Any) -> Iterable[Meta]:
    return (one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Meta))
