"""An artifact that could not be built, while the others of its export are: what is raised in the
end, and what lies in its place for the report."""

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
"""Characters of a reason: a vendor's own words may be a page."""


class Unbuilt(reading.Record, frozen=True, kw_only=True):
    """What `NAME.unbuilt.json` says."""

    format: Literal["goldfold.unbuilt/1"] = FORMAT
    goldfold: str
    target: str
    precision: str
    code: int
    """The exit code of its error."""
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
    """Why; of the kind that says whose fault it is. Its traceback is a note of it, as text."""

    @property
    def name(self) -> str:
        """As its artifact would be called."""
        return f"{self.target}-{self.precision}"


def stops(error: Exception, out: Path) -> bool:
    """Whether an error is of the machine, so that the next artifact would meet it as well: a full
    disk, a folder that cannot be written, no memory."""
    return isinstance(error, MemoryError | OutputError) or is_full(out, error)


def failure(target: str, precision: str, error: Exception) -> Failure:
    """The failure that `error` is. Keeps nothing alive of what the error happened in: a traceback
    would hold the program's weights."""
    clean = explained(error)
    clean.add_note("".join(traceback.format_exception(error)))
    return Failure(target, precision, clean)


def worst(failures: Sequence[Failure], asked: int) -> GoldfoldError:
    """The error that an export of so many pairs ends with: that of the highest exit code, the first
    of several. It names its artifact, and the others that were not built, if there were several to
    build."""
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
    """Remove the record of an earlier failure: the artifact is built."""
    try:
        (out / f"{name}{UNBUILT}").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror}") from None


def records(folder: Path) -> Iterator[tuple[str, Unbuilt | None]]:
    """The records in a folder by their files' names, in order; None for one that cannot be read."""
    for path in sorted(folder.glob(f"*{UNBUILT}")):
        try:
            yield path.name, reading.read_json(Unbuilt, read_record(path))
        except (OSError, ValueError):
            yield path.name, None
