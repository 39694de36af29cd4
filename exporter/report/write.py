"""The writer of a report's three files beside the artifacts, each whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from goldfold.exporter.artifact.bundle import REPORT, is_artifact
from goldfold.exporter.errors import OutputError
from goldfold.exporter.progress import Stages
from goldfold.exporter.report.collect import collect
from goldfold.exporter.report.pages import Report
from goldfold.exporter.system.writing import replace_file

PAGE, RECORD, JUNIT = REPORT


def write(
    folders: Sequence[Path],
    out: Path | None = None,
    *,
    check_files: bool = True,
    change: Callable[[Report], Report] = lambda report: report,
) -> tuple[Report, Path]:
    """Report on the artifacts of `folders`, in `out` or else in the first of them. `change` is
    applied to what was collected.

    An artifact's manifest allows no further file in it, so a report on one goes beside it. Returns
    the report and the page's path. Raises ArtifactError if there is no artifact, OutputError if
    `out` cannot be written.
    """
    report = change(collect(folders, check_files=check_files))
    first = folders[0].resolve()
    place = out or (first.parent if is_artifact(first) else folders[0])
    if is_artifact(place):
        raise OutputError(f"{place} is an artifact, whose files are counted; give another --out")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror}; give another --out") from None
    return report, write_files(report, place)


def write_files(report: Report, place: Path) -> Path:
    """Write the three files of a report into a folder; returns the page's path."""
    from goldfold.exporter.report.junit import junit
    from goldfold.exporter.report.page import page

    texts = {
        RECORD: report.to_json(),
        JUNIT: junit(report),
        PAGE: page(report),
    }
    for name, text in texts.items():
        replace_file(place / name, lambda file, text=text: file.write(text.encode()))
    return place / PAGE


def after_export(out: Path, stages: Stages) -> None:
    """Renew the report on all artifacts in `out`; only sizes are checked, no digests."""
    with stages("report"):
        _, page = write([out], check_files=False)
        stages.note(str(page))
