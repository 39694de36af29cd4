"""The state of a pipeline: pipeline.json beside the artifacts has the last run's keys and
figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from goldfold.exporter import __version__, records
from goldfold.exporter.artifact import bundle
from goldfold.exporter.driver.laying import Laid
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.records import Record
from goldfold.exporter.report.pages import Report
from goldfold.exporter.report.verdict_page import Figure, figure_of
from goldfold.exporter.system.files import read_record
from goldfold.exporter.system.writing import replace_file

PAGE, STATE = bundle.PIPELINE


class Entry(Record, frozen=True, kw_only=True):
    """One artifact of the last run. The key and the manifest's digest are "" where it failed."""

    key: str = ""
    manifest: str = ""
    figure: Figure


class State(Record, frozen=True, kw_only=True):
    """The content of pipeline.json."""

    format: Literal["goldfold.pipeline/1"] = "goldfold.pipeline/1"
    goldfold: str
    artifacts: dict[str, Entry] = msgspec.field(default_factory=dict)
    layouts: dict[str, str] = msgspec.field(default_factory=dict)
    """Digest of what was laid out, by the layout's folder, relative to that of the artifacts."""


def write_text(file: Path, text: str) -> None:
    """Write or replace a file, whole or not at all. Raises OutputError."""
    replace_file(file, lambda opened: opened.write(text.encode()))


def last_of(out: Path) -> State:
    """Returns the state of the last run; an empty one where there is none that can be read: then
    everything is exported."""
    try:
        return records.read_json(State, read_record(out / STATE))
    except (OSError, ValueError):
        return State(goldfold=__version__)


def keep(
    out: Path, found: Report, keys: Mapping[str, str], last: State, laid: Sequence[Laid]
) -> None:
    """Write the state of a run: `keys` by artifact, the report, and what was laid out."""
    entries = dict(last.artifacts)
    for one in found.artifacts:
        name = one.folder.removesuffix(bundle.FAILED)
        whole = one.folder == name and (out / name / bundle.MANIFEST).is_file()
        # An artifact that only exceeds a limit is whole: a new limit needs no new export.
        if whole and one.measured is not None:
            entry = Entry(key=keys[name], manifest=_manifest(out / name), figure=figure_of(one))
        else:
            entry = Entry(figure=figure_of(one))
        entries[name] = entry
    layouts = {**last.layouts, **{one.place: one.digest for one in laid if one.digest}}
    state = State(goldfold=__version__, artifacts=entries, layouts=layouts)
    write_text(out / STATE, state.to_json())


def _manifest(folder: Path) -> str:
    try:
        return bundle.read_manifest(folder).digest
    except ArtifactError:
        return ""
