"""Records of what was measured beside the gate: parts of a verdict, and of the report."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class LayerLook(BaseModel):
    """How far the artifact's program is from the source model after one layer: 1−cos over a few
    texts, infinite (written "Infinity") where a value is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    layer: str
    """As the source model calls it; the last one is `sentence_embedding`, against its golden."""
    worst: float
    worst_id: str


class KindRange(BaseModel):
    """How large one kind of value gets on the calibration texts (exporter/kinds.py)."""

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
    """How fast an artifact is on one machine (exporter/speed.py)."""

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
    """What users feel of a quantized artifact's errors (exporter/losses.py). Rank agreement among
    the goldens always; the Lee corpus and retrieval where they were judged."""

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
