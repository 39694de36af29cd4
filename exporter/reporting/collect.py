"""Read every artifact of some folders into one record: what report.json holds and the page shows.

Nothing is measured here. All figures come from each artifact's manifest.json and verdict.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from exporter import __version__, bundle, unbuilt
from exporter.bundle import Bundle, FileEntry, Manifest, Origin, VerdictRecord
from exporter.errors import ArtifactError
from exporter.figures import KindRange, LayerLook, Losses, Speed
from exporter.location import Location
from exporter.names import line
from exporter.pipeline import PassReport
from exporter.probing import Look
from exporter.program import Contract
from golden import store
from golden.errors import GoldenError
from golden.gate import GATES

FORMAT = "goldfold.report/4"
_WAYS = ("alone", "padded")

State = Literal["passed", "failed", "unverified", "unbuilt", "damaged"]


class _Record(BaseModel):
    """What is not finite is null here: pictures are drawn of these numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _infinite(figure: float | None) -> float:
    return float("inf") if figure is None else figure


class TextFigures(_Record):
    """One golden text in one artifact. 1−cos throughout; null where the embedding is not finite."""

    id: str
    tokens: int
    text: str = ""
    """How it begins, prompt included."""
    alone: float | None
    padded: float | None
    emulated_alone: float | None = None
    emulated_padded: float | None = None
    """With every value rounded, where that is the proof; null as well where it was not done."""
    worst: float | None
    """The largest of these; null where one that was measured is not finite."""
    faults: tuple[str, ...] = ()
    """What the gate says of this text."""


class Figures(_Record):
    """1−cos over all golden texts; null where an embedding is not finite."""

    worst: float | None
    worst_padded: float | None
    mean: float | None
    mean_padded: float | None
    worst_id: str
    similarity_alone: float | None
    similarity_padded: float | None
    """The largest error of a similarity between two texts."""

    @property
    def larger(self) -> float:
        """Of the worst alone and the worst padded."""
        return max(_infinite(self.worst), _infinite(self.worst_padded))


class DriftStep(_Record):
    """1−cos over the short texts after one pass; null where an embedding is not finite."""

    after: str
    worst: float | None
    mean: float | None
    worst_id: str


class LayerStep(_Record):
    """1−cos against the source model after one layer; null where a value is not finite."""

    layer: str
    worst: float | None
    worst_id: str


class KindFigures(_Record):
    """The largest magnitude of one kind of value (exporter/figures.py); null where not finite."""

    kind: str
    peak: float | None
    scaled: float | None
    at: str
    values: int
    half: bool


class ArtifactFigures(_Record):
    """One artifact folder. Of a damaged one only `folder`, `state` and `reasons` are known; of one
    that could not be built, `target` and `precision` as well."""

    folder: str
    """Its name, inside the folder that was reported on; what it would be, if it was not built."""
    state: State
    reasons: tuple[str, ...] = ()
    """Why it failed or cannot be read, one sentence each."""
    name: str = ""
    target: str = ""
    precision: str = ""
    bytes: int = 0
    limit: float | None = None
    """The gate: the largest 1−cos that this precision may show."""
    measured: Figures | None = None
    emulated: Figures | None = None
    """With every value rounded to its type, where this machine computes in another."""
    what: str = ""
    """What `measured` is of: the artifact, or what stood in for it; and in which precision."""
    texts: tuple[TextFigures, ...] = ()
    pairs: tuple[tuple[float, float], ...] = ()
    """(golden similarity, artifact's minus golden) of a drawn sample of pairs of texts."""
    heads: dict[str, dict[str, Any]] = {}
    beside: dict[str, dict[str, Any]] = {}
    drift: tuple[DriftStep, ...] = ()
    layers: tuple[LayerStep, ...] = ()
    """On a few short texts, where the export was asked for drift."""
    ranges: tuple[KindFigures, ...] = ()
    """On calibration texts, where half precision asked for them."""
    losses: Losses | None = None
    """What users feel of its integers; null where it has none, or was verified before that was
    looked at."""
    speed: Speed | None = None
    """What `goldfold report --speed` measured last."""
    location: Location | None = None
    """Where one that missed its gate goes wrong."""
    build_seconds: float | None = None
    golden_seconds: float | None = None
    """How long the golden texts took, alone and in padded batches. No benchmark."""
    golden_tokens: int = 0
    machine: dict[str, str] = {}
    passes: tuple[PassReport, ...] = ()
    census: dict[str, int] = {}
    attention: dict[str, int] = {}
    contract: Contract | None = None
    origin: Origin | None = None
    versions: dict[str, str] = {}
    goldfold: str = ""
    options: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    built: tuple[str, ...] = ()
    files: dict[str, FileEntry] = {}

    @property
    def judged(self) -> Figures | None:
        """The figures that decide: the emulator's where there are some."""
        return self.emulated or self.measured

    @property
    def share(self) -> float | None:
        """Worst 1−cos as a share of the limit: 1 is the gate. None where there is none."""
        judged = self.judged
        return None if judged is None or not self.limit else judged.larger / self.limit

    def per_text(self, batch: int, tokens: int) -> float | None:
        """Median milliseconds a text of that shape, if it was timed."""
        pace = None if self.speed is None else self.speed.at(batch, tokens)
        return None if pace is None else pace.per_text

    @property
    def ranked(self) -> tuple[TextFigures, ...]:
        """Its texts from worst to best."""
        return tuple(sorted(self.texts, key=lambda text: -_infinite(text.worst)))

    @property
    def general(self) -> tuple[str, ...]:
        """The reasons that are about no single text."""
        told = {fault for text in self.texts for fault in text.faults}
        return tuple(reason for reason in self.reasons if reason not in told)


class Report(_Record):
    """All artifacts of a folder, side by side."""

    format: Literal["goldfold.report/4"] = FORMAT
    goldfold: str
    """The version that wrote the report."""
    passed: bool
    """Whether there is an artifact, and every one passed its gate."""
    artifacts: tuple[ArtifactFigures, ...]

    @property
    def timed(self) -> tuple[tuple[int, int], ...]:
        """(batch, tokens) of every shape that any artifact was timed at."""
        speeds = (a.speed for a in self.artifacts if a.speed is not None)
        paces = (pace for speed in speeds for pace in speed.shapes)
        return tuple(sorted({(pace.batch, pace.tokens) for pace in paces}))

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the source models, in order of appearance."""
        names = (artifact.contract.model for artifact in self.artifacts if artifact.contract)
        return tuple(dict.fromkeys(names))


def collect(folders: Sequence[Path], *, check_files: bool = True) -> Report:
    """Every artifact in `folders`, each an artifact folder or one that holds some.

    `check_files=False` looks at sizes only. Raises ArtifactError if there is nothing to report.
    """
    lacking = tuple(one for folder in dict.fromkeys(folders) for one in _unbuilt(folder))
    paths = artifacts_in(folders) if not lacking else list(_all_artifacts(folders))
    found = (*(_figures(path, check_files) for path in paths), *lacking)
    passed = all(artifact.state == "passed" for artifact in found)
    return Report(goldfold=__version__, passed=passed, artifacts=found)


def artifacts_in(folders: Sequence[Path]) -> list[Path]:
    """Every artifact folder in `folders`, once. Raises ArtifactError if there is none."""
    paths = list(_all_artifacts(folders))
    if not paths:
        raise ArtifactError(
            f"{', '.join(map(str, folders))} holds no artifact; `goldfold export` writes some"
        )
    return paths


def _all_artifacts(folders: Sequence[Path]) -> Iterable[Path]:
    return dict.fromkeys(path for folder in folders for path in _artifacts(folder))


def _unbuilt(folder: Path) -> Iterable[ArtifactFigures]:
    """What the last export into a folder could not build."""
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
    """What the manifest says."""
    manifest: Manifest = opened.manifest
    gate = GATES.get(manifest.gate)
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
        "options": manifest.options.model_dump(mode="json"),
        "notes": manifest.notes,
        "built": manifest.built,
        "files": manifest.files,
    }


def _judged(opened: Bundle, verdict: VerdictRecord) -> dict[str, Any]:
    """What the verdict says."""
    measurement, emulated = verdict.measurement, verdict.emulated
    seconds = {timing.stage: timing.seconds for timing in verdict.timings}
    return {
        "folder": line(opened.path.name),
        "state": "passed" if verdict.passed else "failed",
        "reasons": verdict.reasons,
        "measured": _summary(measurement),
        "emulated": None if emulated is None else _summary(emulated),
        "what": _what(verdict),
        "texts": tuple(_texts(opened, verdict)),
        "pairs": (emulated or measurement).get("pairs") or measurement.get("pairs", ()),
        "heads": _further(verdict.heads),
        "beside": _further(verdict.beside),
        "drift": tuple(map(_step, verdict.drift)),
        "layers": tuple(map(_layer, verdict.layers)),
        "ranges": tuple(map(_kind, verdict.ranges)),
        "losses": verdict.losses,
        "speed": verdict.speed,
        "location": verdict.location,
        "build_seconds": seconds.get(f"build {opened.name}"),
        "golden_seconds": seconds.get(f"verify {opened.name}"),
        "golden_tokens": sum(row["tokens"] for row in measurement["rows"]),
        "machine": verdict.machine,
    }


def _further(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Measurements without their rows. Raises ValueError for what is none."""
    for name, one in found.items():
        for key in ("worst", "mean"):
            if not isinstance(one.get(key), (int, float)) and one.get(key) != "inf":
                raise ValueError(f"{name} has no {key}")
    return found


def _what(verdict: VerdictRecord) -> str:
    what = verdict.machine.get("measured", "the artifact")
    computed = verdict.machine.get("computes_in", verdict.precision)
    where = f"{what}, computed in {computed}"
    return f"{where}; every value rounded in emulation" if verdict.emulated else where


def _summary(record: dict[str, Any]) -> Figures:
    return Figures(**{key: _number(record[key]) for key in Figures.model_fields})


def _step(look: Look) -> DriftStep:
    finite = {key: _finite(getattr(look, key)) for key in ("worst", "mean")}
    return DriftStep(after=look.after, worst_id=look.worst_id, **finite)


def _layer(look: LayerLook) -> LayerStep:
    return LayerStep(layer=look.layer, worst=_finite(look.worst), worst_id=look.worst_id)


def _kind(row: KindRange) -> KindFigures:
    finite = {"peak": _finite(row.peak), "scaled": _finite(row.scaled)}
    return KindFigures(**{**row.model_dump(), **finite})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> Any:
    """JSON has no infinity: the verdict says "inf", the report null."""
    return None if value == "inf" else value


def _texts(opened: Bundle, verdict: VerdictRecord) -> Iterable[TextFigures]:
    begins = _begins(opened)
    rounded = {row["id"]: row for row in (verdict.emulated or {}).get("rows", ())}
    for row in verdict.measurement["rows"]:
        name, other = row["id"], rounded.get(row["id"])
        figures = [one[way]["distance"] for one in (row, other) if one for way in _WAYS]
        yield TextFigures(
            id=name,
            tokens=row["tokens"],
            text=begins.get(name, ""),
            alone=_number(row["alone"]["distance"]),
            padded=_number(row["padded"]["distance"]),
            emulated_alone=None if other is None else _number(other["alone"]["distance"]),
            emulated_padded=None if other is None else _number(other["padded"]["distance"]),
            worst=None if "inf" in figures else max(figures),
            faults=tuple(r for r in verdict.reasons if _is_about(r, name)),
        )


def _is_about(reason: str, name: str) -> bool:
    """Whether one of the gate's sentences (golden/gate.py) is about the text `name`."""
    return f" of {name} (" in reason or f"tokens of {name} differ" in reason


def _begins(opened: Bundle, most: int = 90) -> dict[str, str]:
    """How each golden text begins, on one line."""
    try:
        goldens = store.load(opened.path / bundle.GOLDEN)
    except GoldenError as error:
        raise ArtifactError(f"{opened.path} is damaged: {error}") from None
    begins = {}
    for case in goldens.cases:
        line = " ".join((case.prompt + case.text).split())
        begins[case.id] = line if len(line) <= most else f"{line[: most - 1]}…"
    return begins
