"""The verdict: may NEW's queries search OLD's index? Three answers, and the limits that give them.

`compatible`: nothing but rounding differs. With the gates' limits a and b of one text, both sides
lie within √(2a) and √(2b) of the source's unit vector, and distances add up at most, so the 1−cos
of one text is at most (√a + √b)²; 8e-4 of two artifacts in bf16, the coarsest floating precision,
bounds it in any case. The contracts must say the same, and lengths agree: a component stored in
half precision moves by 2⁻¹¹ of itself at most, and the length by no more; two sides, 1e-3.

`compatible with loss`: more than rounding differs, and the upper end of what retrieval loses, in
either direction, is within the limit: 1.5 %, the largest promise of a gate (int4's), or one's own.

`not compatible`: everything else; also where most texts of a script or kind no longer find their
own vector, where embeddings are not finite, and where lengths differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from goldfold.exporter.index.drift import Drift, TextDrift
from goldfold.exporter.index.mixed import FORWARD, REVERSE
from goldfold.exporter.index.sides import UNKNOWN
from goldfold.golden.metrics import Metric

Answer = Literal["compatible", "compatible with loss", "not compatible"]

LOSS = 0.015
"""The share of OLD's nDCG@10 that mixing may lose: the gate's own limit for int4."""
LENGTH = 1e-3
"""Largest |‖new‖/‖old‖ − 1| where both are unit vectors."""
_NAMED = 6
"""Kinds that a sentence names."""


def rounding(old: float, new: float) -> float:
    """Returns the 1−cos of one text that the gates' limits of two artifacts allow."""
    return min((math.sqrt(old) + math.sqrt(new)) ** 2, 4 * UNKNOWN)


@dataclass(frozen=True)
class Compatibility:
    """What was compared, what it showed, and the verdict."""

    verdict: Answer
    reasons: tuple[str, ...]
    """Why it is not a better one."""
    differences: tuple[str, ...]
    """The differences of the contracts by name."""
    causes: tuple[str, ...]
    """Likely causes of a drift, where the vectors show one."""
    old: str
    new: str
    dims: int
    mixable: str
    """The sizes at which the two may be mixed, in words."""
    drift: Drift
    worst: tuple[TextDrift, ...]
    """The texts that drift most; of an index with the rows of their vectors."""
    allowed: float
    """The 1−cos of one text that the two precisions explain."""
    retrieval: tuple[Metric, ...]
    """Losses of nDCG@10 against OLD's queries over OLD's documents; of an index's own vectors,
    against NEW's queries over NEW's documents."""
    indexes: tuple[Metric, ...]
    """Losses of NEW's queries over OLD's documents through real indexes, each against OLD's
    queries through the same index."""
    limit: float
    texts: str
    """The texts of the comparison, in words."""
    notes: tuple[str, ...] = ()
    """What was not measured, or something else in its place."""

    @property
    def compatible(self) -> bool:
        """Whether NEW's queries may search OLD's index, with a loss within the limit."""
        return self.verdict != "not compatible"

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{self.verdict} at {self.dims} dimensions{why}"

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object, without numbers that JSON lacks."""
        return {"format": "goldfold.compat/1", **_finite(asdict(self)), "sentence": self.sentence}


@dataclass(frozen=True)
class Found:
    """What a verdict is made of."""

    drift: Drift
    retrieval: tuple[Metric, ...]
    differences: tuple[str, ...]
    allowed: float
    limit: float
    normalized: bool
    """Whether both sides give unit vectors."""
    similarity: str
    same: bool
    """Whether both are said to be of one source model."""
    indexes: tuple[Metric, ...] = ()


def judge(found: Found) -> tuple[Answer, tuple[str, ...]]:
    """Returns the verdict, and why it is not a better one."""
    broken = tuple(_broken(found))
    if broken:
        return "not compatible", (*broken, *_more(found))
    more = tuple(_more(found))
    if not more:
        return "compatible", ()
    worst = max((one.upper or 0.0 for one in _bounded(found)), default=0.0)
    return "compatible with loss", (*more, f"retrieval loses at most {worst:.2%}")


def _broken(found: Found) -> Iterator[str]:
    drift = found.drift
    if drift.unusable:
        yield f"{drift.unusable} embeddings are not finite, or zero, on one side alone"
    apart = LENGTH if found.normalized else max(LENGTH, math.sqrt(2 * found.allowed))
    angles = found.similarity == "cosine" and not found.normalized
    if drift.length > apart and not angles:
        yield (
            f"lengths differ by up to {drift.length:.1%}, over {apart:.1%}: scores and distances "
            "are others"
        )
    for one in _bounded(found):
        if (one.upper or 0.0) > found.limit:
            yield f"{one.name}: nDCG@10 loses up to {one.upper:.2%}, over {found.limit:.2%}"
    if kinds := [one for one in drift.kinds if one.broken]:
        named = ", ".join(f"{one.kind} {one.found:.0%}" for one in kinds[:_NAMED])
        more = f" and {len(kinds) - _NAMED} kinds more" if len(kinds) > _NAMED else ""
        yield f"most texts of a kind do not find their own vector: {named}{more}"
    elif drift.distinct >= 3 and drift.found < 0.5:
        yield f"only {drift.found:.0%} of the texts find their own vector"


def _more(found: Found) -> Iterator[str]:
    """Yields what is more than rounding."""
    drift = found.drift
    if not found.same:
        yield "the source models are two"
    yield from found.differences
    if drift.worst > found.allowed:
        yield (
            f"the 1−cos of a text is up to {drift.worst:.1e}, over the {found.allowed:.1e} that "
            "rounding explains"
        )


def _bounded(found: Found) -> list[Metric]:
    either = [one for one in found.retrieval if one.name in (FORWARD, REVERSE)]
    return [*either, *found.indexes]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
