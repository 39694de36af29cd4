"""Artifacts that could not be built while the others of their export were: the error that the
export raises at its end, and the record that lies in the artifact's place for the report."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from goldfold.exporter import __version__
from goldfold.exporter import records as reading
from goldfold.exporter.errors import GoldfoldError, OutputError
from goldfold.exporter.system.faults import explained
from goldfold.exporter.system.files import UNBUILT, is_full, read_record
from goldfold.exporter.system.names import line

FORMAT = "goldfold.unbuilt/1"
_LONGEST = 2000
"""Maximum characters of a reason: a vendor's own message may be a page."""


class Unbuilt(reading.Record, frozen=True, kw_only=True):
    """The content of `NAME.unbuilt.json`."""

    format: Literal["goldfold.unbuilt/1"] = FORMAT
    goldfold: str
    target: str
    precision: str
    code: int
    """The exit code of the error."""
    reason: str

    @property
    def name(self) -> str:
        return f"{self.target}-{self.precision}"


@dataclass(frozen=True)
class Failure:
    """A pair of target and precision that an export could not build."""

    target: str
    precision: str
    error: GoldfoldError
    """The reason, as an error of the class that says whose fault it is. Its traceback is kept as
    text, in a note of the error."""

    @property
    def name(self) -> str:
        """The name that its artifact would have."""
        return f"{self.target}-{self.precision}"


def stops(error: Exception, out: Path) -> bool:
    """Returns whether an error comes from the machine, so that the next artifact would meet it as
    well: a full disk, a folder that cannot be written, no memory."""
    return isinstance(error, MemoryError | OutputError) or is_full(out, error)


def failure(target: str, precision: str, error: Exception) -> Failure:
    """Returns the failure for `error`. The failure keeps no traceback: that would keep the
    program's weights in memory."""
    clean = explained(error)
    clean.add_note("".join(traceback.format_exception(error)))
    return Failure(target, precision, clean)


def worst(failures: Sequence[Failure], asked: int) -> GoldfoldError:
    """Returns the error with which an export of `asked` pairs ends: the one of the highest exit
    code, the first of several. It names its artifact and, if there were several to build, the
    others that were not built."""
    first = max(failures, key=lambda one: one.error.code)
    error = first.error
    if asked > 1:
        others = [one.name for one in failures if one is not first]
        nor = f"; nor were {', '.join(others)}" if others else ""
        said = f"{first.name} was not built: {error}{nor}"
        error = explained(error, said)
        error.add_note("\n".join(getattr(first.error, "__notes__", ())))
    return error


def write(out: Path, failed: Failure, scratch: Path) -> None:
    """Leave a record of a failure in `out`, whole or not at all. Raises OutputError."""
    reason = line(str(failed.error))
    record = Unbuilt(
        goldfold=__version__,
        target=line(failed.target),
        precision=line(failed.precision),
        code=failed.error.code,
        reason=reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} …",
    )
    fresh, place = scratch / f"{failed.name}{UNBUILT}", out / f"{failed.name}{UNBUILT}"
    try:
        fresh.write_text(record.to_json(), encoding="utf-8")
        fresh.replace(place)
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror}") from None
    shutil.rmtree(scratch / failed.name, ignore_errors=True)  # half an artifact takes room


def clear(out: Path, name: str) -> None:
    """Remove the record of an earlier failure, since the artifact is built."""
    try:
        (out / f"{name}{UNBUILT}").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}") from None


def records(folder: Path) -> Iterator[tuple[str, Unbuilt | None]]:
    """Yields the records in a folder by their files' names, in order; None for a record that cannot
    be read."""
    for path in sorted(folder.glob(f"*{UNBUILT}")):
        try:
            yield path.name, reading.read_json(Unbuilt, read_record(path))
        except (OSError, ValueError):
            yield path.name, None
