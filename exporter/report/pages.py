"""What report.json holds, and the page shows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from goldfold.exporter.artifact.bundle import FileEntry, Origin
from goldfold.exporter.contract import Contract
from goldfold.exporter.records import Location, Losses, PassReport, Speed

FORMAT = "goldfold.report/4"


State = Literal["passed", "failed", "unverified", "unbuilt", "damaged"]


class Record(BaseModel):
    """What is not finite is null here: pictures are drawn of these numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def infinite(figure: float | None) -> float:
    return float("inf") if figure is None else figure


class TextFigures(Record):
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


class Figures(Record):
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
        return max(infinite(self.worst), infinite(self.worst_padded))


class DriftStep(Record):
    """1−cos over the short texts after one pass; null where an embedding is not finite."""

    after: str
    worst: float | None
    mean: float | None
    worst_id: str


class LayerStep(Record):
    """1−cos against the source model after one layer; null where a value is not finite."""

    layer: str
    worst: float | None
    worst_id: str


class KindFigures(Record):
    """The largest magnitude of one kind of value (exporter/figures.py); null where not finite."""

    kind: str
    peak: float | None
    scaled: float | None
    at: str
    values: int
    half: bool


class ArtifactFigures(Record):
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
        return tuple(sorted(self.texts, key=lambda text: -infinite(text.worst)))

    @property
    def general(self) -> tuple[str, ...]:
        """The reasons that are about no single text."""
        told = {fault for text in self.texts for fault in text.faults}
        return tuple(reason for reason in self.reasons if reason not in told)


class Report(Record):
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
