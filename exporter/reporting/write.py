"""Write the three files of a report beside the artifacts, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from exporter.bundle import REPORT, is_artifact
from exporter.errors import OutputError
from exporter.reporting.collect import collect
from exporter.reporting.records import Report
from exporter.stages import Stages

PAGE, RECORD, JUNIT = REPORT


def write(
    folders: Sequence[Path], out: Path | None = None, *, check_files: bool = True
) -> tuple[Report, Path]:
    """Report on the artifacts of `folders`, in `out` or else in the first of them.

    Inside an artifact its manifest allows no further file, so a report on one goes beside it.
    Returns the report and the page's path. Raises ArtifactError if there is no artifact,
    OutputError if `out` cannot be written.
    """
    from exporter.reporting.junit import junit
    from exporter.reporting.page import page

    report = collect(folders, check_files=check_files)
    first = folders[0].resolve()
    place = out or (first.parent if is_artifact(first) else folders[0])
    if is_artifact(place):
        raise OutputError(f"{place} is an artifact, whose files are counted; give another --out")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror}; give another --out") from None
    _replace(place / RECORD, report.model_dump_json(indent=1) + "\n")
    _replace(place / JUNIT, junit(report))
    _replace(place / PAGE, page(report))
    return report, place / PAGE


def after_export(out: Path, stages: Stages) -> None:
    """Renew the report on all artifacts in `out`; only sizes are checked, no digests."""
    with stages("report"):
        _, page = write([out], check_files=False)
        stages.note(str(page))


def _replace(path: Path, text: str) -> None:
    """A name of its own for what is half-written: two exports may report at the same time."""
    fresh: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            fresh = Path(file.name)
            file.write(text)
        fresh.chmod(0o666 & ~_umask())
        fresh.replace(path)
    except OSError as error:
        if fresh is not None:
            with suppress(OSError):
                fresh.unlink()
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
