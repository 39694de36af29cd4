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
