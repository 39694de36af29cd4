"""The collection of every artifact of some folders into one record: report.json contains it, and
the page shows it.

This module measures nothing. All figures come from each artifact's manifest.json and verdict.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from goldfold.exporter import __version__
from goldfold.exporter.artifact import bundle, unbuilt
from goldfold.exporter.artifact.bundle import Bundle, Manifest, VerdictRecord
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.records import Figures, Measured
from goldfold.exporter.report.pages import (
    ArtifactFigures,
    Report,
    TextFigures,
)
from goldfold.exporter.system.names import line
from goldfold.golden import store
from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import BY_TASK, Status


def collect(folders: Sequence[Path], *, check_files: bool = True) -> Report:
    """Returns every artifact in `folders`, each an artifact folder or one that holds some.

    `check_files=False` checks sizes only. Raises ArtifactError if there is nothing to report.
    """
    lacking = tuple(one for folder in dict.fromkeys(folders) for one in _unbuilt(folder))
    paths = artifacts_in(folders) if not lacking else list(_all_artifacts(folders))
    found = (*(_figures(path, check_files) for path in paths), *lacking)
    states = {artifact.state for artifact in found}
    status: Status = "failed"
    if states <= {"passed", "proved"}:
        status = "proved" if "proved" in states else "passed"
    return Report(goldfold=__version__, status=status, artifacts=found)


def artifacts_in(folders: Sequence[Path]) -> list[Path]:
    """Returns every artifact folder in `folders`, once. Raises ArtifactError if there is none."""
    paths = list(_all_artifacts(folders))
    if not paths:
        raise ArtifactError(
            f"{', '.join(map(str, folders))} holds no artifact; `goldfold export` writes some"
        )
    return paths


def _all_artifacts(folders: Sequence[Path]) -> Iterable[Path]:
    return dict.fromkeys(path for folder in folders for path in _artifacts(folder))


def _unbuilt(folder: Path) -> Iterable[ArtifactFigures]:
    """Yields the artifacts that the last export into a folder could not build."""
    for file, record in unbuilt.records(folder):
        if record is None:
            reason = (f"{file} cannot be read; remove it",)
            yield ArtifactFigures(folder=file, state="damaged", reasons=reason)
        else:
            yield ArtifactFigures(
                folder=record.name,
                state="unbuilt",
                reasons=(record.reason,),
                target=record.target,
                precision=record.precision,
                goldfold=record.goldfold,
            )


def _artifacts(folder: Path) -> Iterable[Path]:
    if bundle.is_artifact(folder):
        return [folder]
    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in inside if bundle.is_artifact(path) and not _hidden(path))


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _figures(path: Path, check_files: bool) -> ArtifactFigures:
    try:
        opened = bundle.open_bundle(path, check_files=check_files, unverified=True)
        if opened.verdict is None:
            why = f"never verified: `goldfold verify {line(path.name)}` measures it"
            return ArtifactFigures(
                folder=line(path.name), state="unverified", reasons=(why,), **_known(opened)
            )
        return ArtifactFigures(**_judged(opened, opened.verdict), **_known(opened))
    except (ArtifactError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = reason.replace(str(path), path.name)  # a report is handed on
        return ArtifactFigures(folder=line(path.name), state="damaged", reasons=(line(reason),))


def _known(opened: Bundle) -> dict[str, Any]:
    """Returns the figures from the manifest."""
    manifest: Manifest = opened.manifest
    gate = BY_TASK[manifest.contract.task].get(manifest.gate)
    return {
        "name": opened.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "bytes": opened.size,
        "limit": None if gate is None else gate.worst,
        "passes": manifest.passes,
        "census": manifest.census,
        "attention": manifest.attention,
        "contract": manifest.contract,
        "origin": manifest.origin,
        "versions": manifest.versions,
        "goldfold": manifest.goldfold,
        "options": manifest.options,
        "notes": manifest.notes,
        "built": manifest.built,
        "bounds": manifest.bounds,
        "files": manifest.files,
    }


def _judged(opened: Bundle, verdict: VerdictRecord) -> dict[str, Any]:
    """Returns the figures from the verdict."""
    measurement, emulated = verdict.measurement, verdict.emulated
    seconds = {timing.stage: timing.seconds for timing in verdict.timings}
    return {
        "folder": line(opened.path.name),
        "state": verdict.status,
        "stand_in": verdict.stand_in,
        "not_run": verdict.not_run,
        "reasons": tuple(reason.sentence for reason in verdict.reasons),
        "measured": _summary(measurement),
        "emulated": None if emulated is None else _summary(emulated),
        "what": _what(verdict),
        "constants": verdict.constants,
        "texts": tuple(_texts(opened, verdict)),
        "pairs": (emulated or measurement).pairs or measurement.pairs,
        "heads": verdict.heads,
        "emulated_heads": verdict.emulated_heads,
        "beside": verdict.beside,
        "drift": verdict.drift,
        "layers": verdict.layers,
        "ranges": verdict.ranges,
        "losses": verdict.losses,
        "unseen": verdict.unseen,
        "speed": verdict.speed,
        "location": verdict.location,
        "build_seconds": seconds.get(f"build {opened.name}"),
        "golden_seconds": seconds.get(f"verify {opened.name}"),
        "golden_tokens": sum(row.tokens for row in measurement.rows),
        "machine": verdict.machine,
    }


def _what(verdict: VerdictRecord) -> str:
    what = verdict.machine.get("measured", "the artifact")
    computed = verdict.machine.get("computes_in", verdict.precision)
    where = f"{what}, computed in {computed}"
    return f"{where}; every value rounded in emulation" if verdict.emulated else where


def _summary(measured: Measured) -> Figures:
    """Returns the figures without those of single texts."""
    return Figures(**{name: getattr(measured, name) for name in Figures.__struct_fields__})


def _texts(opened: Bundle, verdict: VerdictRecord) -> Iterable[TextFigures]:
    begins = _begins(opened)
    rounded = {row.id: row for row in (verdict.emulated.rows if verdict.emulated else ())}
    for row in verdict.measurement.rows:
        other = rounded.get(row.id)
        readings = [way for one in (row, other) if one for way in (one.alone, one.padded)]
        yield TextFigures(
            id=row.id,
            tokens=row.tokens,
            text=begins.get(row.id, ""),
            alone=row.alone.distance,
            padded=row.padded.distance,
            emulated_alone=other and other.alone.distance,
            emulated_padded=other and other.padded.distance,
            worst=max(reading.distance for reading in readings),
            faults=tuple(r.sentence for r in verdict.reasons if r.text == row.id),
        )


def _begins(opened: Bundle, most: int = 90) -> dict[str, str]:
    """Returns the beginning of each golden text, on one line."""
    try:
        goldens = store.load(opened.path / bundle.GOLDEN)
    except GoldenError as error:
        raise ArtifactError(f"{opened.path} is damaged: {error}") from None
    begins = {}
    for case in goldens.cases:
        line = " ".join((case.prompt + case.text).split())
        begins[case.id] = line if len(line) <= most else f"{line[: most - 1]}…"
    return begins
