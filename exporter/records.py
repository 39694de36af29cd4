"""Records of what was done and measured: parts of a manifest, a verdict and a report."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict


def finite(value: float | None) -> float | None:
    """The number as JSON can hold it, which has no infinity and no NaN: null is in their place."""
    return float(value) if value is not None and math.isfinite(value) else None


class Timing(BaseModel):
    """One finished stage."""

    model_config = ConfigDict(frozen=True)

    stage: str
    seconds: float


class PassReport(BaseModel):
    """What one pass did to one program; part of the manifest."""

    model_config = ConfigDict(frozen=True)

    name: str
    equality: str
    applied: int
    refused: tuple[str, ...]
    nodes_before: int
    nodes_after: int
    parameters_before: int
    parameters_after: int
    seconds: float


class Look(BaseModel):
    """Drift at one point: 1−cos over the short goldens, infinite where a value is not finite.

    JSON has no infinity: it is written, and read, as the string "Infinity".
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    after: str
    """Name of the pass before this look."""
    worst: float
    mean: float
    worst_id: str


class LayerLook(BaseModel):
    """How far the artifact's program is from the source model after one layer: 1−cos over a few
    texts, infinite (written "Infinity") where a value is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    layer: str
    """As the source model calls it; the last one is `sentence_embedding`, against its golden."""
    worst: float
    worst_id: str


class KindRange(BaseModel):
    """How large one kind of value gets on the calibration texts
    (exporter/evaluate/value_roles.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    kind: str
    peak: float
    """The largest magnitude in f32; of attention scores a bound."""
    scaled: float
    """The same as the artifact's program computes it: behind scale-residual."""
    at: str
    """The value that reaches it."""
    values: int
    """How many there are of this kind."""
    half: bool
    """Whether any is computed in half precision, or may be."""


class Pace(BaseModel):
    """Times of one shape: full texts of `tokens` tokens, `batch` in a call. Milliseconds a call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int
    tokens: int
    median: float
    p10: float
    p90: float
    calls: int

    @property
    def per_text(self) -> float:
        """Milliseconds a text, by the median."""
        return self.median / self.batch


class Speed(BaseModel):
    """How fast an artifact is on one machine (exporter/report/latency.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shapes: tuple[Pace, ...]
    cpu: str
    processors: int
    threads: int | None
    """Of the runtime; None if it chose itself."""
    others: float | None
    """The share of all processors' time that other processes took meanwhile; None if unknown."""
    beside: tuple[str, ...]
    """The artifacts that it took turns with, itself among them: only these compare."""
    taken: str
    """When, in UTC."""

    def at(self, batch: int, tokens: int) -> Pace | None:
        """The times of one shape, if it was timed."""
        found = (one for one in self.shapes if (one.batch, one.tokens) == (batch, tokens))
        return next(found, None)


class Loss(BaseModel):
    """One figure of what users feel, at one size (golden/judging/judge.py, Metric). `loss` is
    1 − artifact/reference, `upper` ends its 95 % interval above; null where it is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dims: int
    reference: float
    artifact: float
    loss: float | None
    upper: float | None
    count: int
    """Of queries, pairs or texts."""


class Losses(BaseModel):
    """What users feel of a quantized artifact's errors (exporter/verification/losses.py). Rank
    agreement among the goldens always; the Lee corpus and retrieval where they were judged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    figures: tuple[Loss, ...]
    limit: float | None
    """The gate: the share of retrieval's nDCG@10 that may be lost, held against `upper`."""
    judged: str | None = None
    """When retrieval was, in UTC; null if it was not, and the gate has 1−cos alone."""
    pairs_digest: str = ""
    """Of the retrieval set."""
    missing: tuple[str, ...] = ()
    """What was not measured, and what was judged in the artifact's place, one sentence each."""


Kind = Literal["trace", "pass", "rounding", "build", "unknown"]


class Location(BaseModel):
    """What was found on the text that was looked at. 1−cos throughout; null where not finite, or
    not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    """In the trace or its weights; in a pass; no fault but rounding; in the target's build or its
    runtime."""
    text: str
    tokens: int
    padded: bool
    """Whether it was looked at with padding behind it."""
    distance: float | None
    """Of the embedding, there."""
    law: str = ""
    place: str = ""
    """The pass, and the place of its first application that breaks the text."""
    layer: str = ""
    module: str = ""
    """The first layer that drifts, and the source module in it."""
    before: float | None = None
    after: float | None = None
    """The drift after the layer before, and after this one."""
    sentence: str
    """All of it, in a paragraph."""
