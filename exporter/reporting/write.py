"""Write the three files of a report beside the artifacts, each whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporter.bundle import REPORT, is_artifact
from exporter.errors import OutputError
from exporter.reporting.collect import collect
from exporter.reporting.records import Report
from exporter.stages import Stages
from exporter.writing import replace_file

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
    texts = {
        RECORD: report.model_dump_json(indent=1) + "\n",
        JUNIT: junit(report),
        PAGE: page(report),
    }
    for name, text in texts.items():
        replace_file(place / name, lambda file, text=text: file.write(text.encode()))
    return report, place / PAGE


def after_export(out: Path, stages: Stages) -> None:
    """Renew the report on all artifacts in `out`; only sizes are checked, no digests."""
    with stages("report"):
        _, page = write([out], check_files=False)
        stages.note(str(page))
