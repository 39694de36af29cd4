"""The records of report.json, which the page shows."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import field

from goldfold.exporter.artifact.bundle import FileEntry, Origin
from goldfold.exporter.contract import Contract
from goldfold.exporter.proofs import Constants, KindBounds, UnseenFigures
from goldfold.exporter.records import (
    Figures,
    KindRange,
    LayerLook,
    Location,
    Look,
    Losses,
    PassReport,
    Real,
    Record,
    Speed,
)
from goldfold.golden.gate import Status
from goldfold.golden.measured import unmeasured
from goldfold.golden.tasks import EMBEDDING, QUANTITY

FORMAT = "goldfold.report/6"

State = Literal["passed", "proved", "failed", "unverified", "unbuilt", "damaged"]
"""The status of a verdict (golden/gate.py), or why there is none."""


class TextFigures(Record, frozen=True, kw_only=True):
    """The figures of one golden text in one artifact. 1−cos throughout, infinite where an embedding
    is not finite."""

    id: str
    tokens: int
    text: str = ""
    """The beginning of the text, prompt included."""
    alone: Real
    padded: Real
    emulated_alone: Real | None = None
    emulated_padded: Real | None = None
    """1−cos with every value rounded, where that is the proof; null where it was not measured."""
    worst: Real
    """The largest of these figures."""
    faults: tuple[str, ...] = ()
    """The gate's findings on this text."""


class ArtifactFigures(Record, frozen=True, kw_only=True):
    """The figures of one artifact folder. For a damaged one only `folder`, `state` and `reasons`
    are known; for one that could not be built, `target` and `precision` as well."""

    folder: str
    """Its name, inside the folder of the report; the name that it would have, if it was not
    built."""
    state: State
    stand_in: str = ""
    """What ran in place of the file in its precision, in words; "" where nothing stood in."""
    not_run: str = ""
    """Why the file did not run on its device in its precision; "" where it did."""
    reasons: tuple[str, ...] = ()
    """Why the artifact failed or cannot be read, one sentence each."""
    name: str = ""
    target: str = ""
    precision: str = ""
    bytes: int = 0
    limit: float | None = None
    """The gate: the largest 1−cos that this precision may show."""
    measured: Figures | None = None
    emulated: Figures | None = None
    """Figures with every value rounded to its type, where this machine computes in another."""
    what: str = ""
    """The subject of `measured`: the artifact, or its stand-in; and the precision."""
    constants: Constants | None = None
    """The proof of the constants in the target's file."""
    texts: tuple[TextFigures, ...] = ()
    pairs: tuple[tuple[float, float], ...] = ()
    """(golden similarity, artifact's minus golden) of a drawn sample of pairs of texts."""
    heads: dict[str, Figures] = field(default_factory=dict)
    emulated_heads: dict[str, Figures] = field(default_factory=dict)
    beside: dict[str, Figures] = field(default_factory=dict)
    drift: tuple[Look, ...] = ()
    layers: tuple[LayerLook, ...] = ()
    """The drift by layer on a few short texts, where the export was asked for it."""
    ranges: tuple[KindRange, ...] = ()
    """The ranges of values on calibration texts, where half precision required them."""
    bounds: tuple[KindBounds, ...] = ()
    """The values in fp16, by kind: bounded for every text, or by calibration alone."""
    losses: Losses | None = None
    """The losses in retrieval of a quantized artifact; null for any other, and for one verified
    before they were measured."""
    unseen: UnseenFigures | None = None
    """The figures over unseen texts; null where they were never measured."""
    speed: Speed | None = None
    """The last latency measurement of `goldfold report --speed`."""
    location: Location | None = None
    """The location of the fault in an artifact that missed its gate."""
    build_seconds: float | None = None
    golden_seconds: float | None = None
    """Seconds that the golden texts took, alone and in padded batches. No benchmark."""
    golden_tokens: int = 0
    machine: dict[str, str] = field(default_factory=dict)
    passes: tuple[PassReport, ...] = ()
    census: dict[str, int] = field(default_factory=dict)
    attention: dict[str, int] = field(default_factory=dict)
    contract: Contract | None = None
    origin: Origin | None = None
    versions: dict[str, str] = field(default_factory=dict)
    goldfold: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    built: tuple[str, ...] = ()
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def unmeasured(self) -> str:
        """The sentence on the lengths that the artifact takes and that were not measured; "" where
        every length was."""
        most = 0 if self.contract is None else self.contract.max_length
        return unmeasured(max((text.tokens for text in self.texts), default=0), most)

    @property
    def quantity(self) -> str:
        """What is measured, in words: 1−cos, or the error of logits."""
        return QUANTITY[EMBEDDING if self.contract is None else self.contract.task]

    @property
    def judged(self) -> Figures | None:
        """The figures that decide: the emulator's where there are some."""
        return self.emulated or self.measured

    @property
    def share(self) -> float | None:
        """Worst 1−cos as a share of the limit: 1 is the gate. None where there is no limit."""
        judged = self.judged
        return None if judged is None or not self.limit else judged.larger / self.limit

    def per_text(self, batch: int, tokens: int) -> float | None:
        """Returns median milliseconds per text of that shape, if it was timed."""
        pace = None if self.speed is None else self.speed.at(batch, tokens)
        return None if pace is None else pace.per_text

    @property
    def ranked(self) -> tuple[TextFigures, ...]:
        """The artifact's texts from worst to best."""
        return tuple(sorted(self.texts, key=lambda text: -text.worst))

    @property
    def general(self) -> tuple[str, ...]:
        """The reasons that concern no single text."""
        told = {fault for text in self.texts for fault in text.faults}
        return tuple(reason for reason in self.reasons if reason not in told)


class Report(Record, frozen=True, kw_only=True):
    """The report on all artifacts of a folder, side by side."""

    format: Literal["goldfold.report/6"] = FORMAT
    goldfold: str
    """The version that wrote the report."""
    status: Status
    """The status of all: "passed" where every artifact passed, "proved" where every one passed or
    was proved, else "failed"."""
    artifacts: tuple[ArtifactFigures, ...]

    @property
    def passed(self) -> bool:
        """Whether every artifact passed or was proved."""
        return self.status != "failed"

    def count(self, state: State) -> int:
        """Returns how many artifacts are in that state."""
        return sum(artifact.state == state for artifact in self.artifacts)

    @property
    def timed(self) -> tuple[tuple[int, int], ...]:
        """(batch, tokens) of every shape at which any artifact was timed."""
        speeds = (a.speed for a in self.artifacts if a.speed is not None)
        paces = (pace for speed in speeds for pace in speed.shapes)
        return tuple(sorted({(pace.batch, pace.tokens) for pace in paces}))

    @property
    def quantity(self) -> str:
        """What is measured of the artifacts, in words; the error where they have several tasks."""
        found = {artifact.quantity for artifact in self.artifacts if artifact.contract}
        return next(iter(found)) if len(found) == 1 else "error" if found else QUANTITY[EMBEDDING]

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the source models, in order of appearance."""
        names = (artifact.contract.model for artifact in self.artifacts if artifact.contract)
        return tuple(dict.fromkeys(names))
