"""What a user may ask of a target beyond its precision. Each target takes some of it, fills in the
rest, and refuses what it cannot do before anything is traced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from goldfold.exporter.errors import UsageError
from goldfold.exporter.records import Record


class BuildOptions(Record, kw_only=True):
    """Fields are the command line's flags; a default says that nothing was asked."""

    compute_capability: tuple[str, ...] = ()
    """NVIDIA architectures to build for, as "sm86"."""
    profile: tuple[str, ...] = ()
    """Optimisation profiles, "1x1:8x128:32x512": least, usual and most batch × tokens."""
    compatible: tuple[str, ...] = ()
    """"version", "hardware": run on later TensorRT releases, on other architectures."""
    batch: int | None = None
    """Texts in every call; any number by default."""
    buckets: tuple[int, ...] = ()
    """Static lengths, in tokens, that one artifact holds."""
    flexible: bool = False
    """Open lengths instead of buckets."""
    minimum_target: str | None = None
    """The oldest system to run on, as "iOS18" or "macOS15"."""

    def asked(self) -> tuple[str, ...]:
        """Names of the fields that were given."""
        return tuple(sorted(self._given()))

    def only(self, taken: Iterable[str]) -> BuildOptions:
        """These options without those that a target does not take."""
        given = self._given()
        return BuildOptions(**{name: given[name] for name in taken if name in given})

    def _given(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in self.__struct_fields__
            if getattr(self, name) != getattr(NOTHING_ASKED, name)
        }


NOTHING_ASKED = BuildOptions()


def check_taken(options: BuildOptions, takes: dict[str, tuple[str, ...]]) -> None:
    """Raise UsageError for an option that none of the targets takes (`takes`: fields by target)."""
    for name in options.asked():
        if not any(name in taken for taken in takes.values()):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} says nothing to {', '.join(takes)}; leave it out")
