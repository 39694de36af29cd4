"""The interval of a percentile by order statistics, which holds for every distribution.

Of n values drawn alike and apart, the number that lie at or below the percentile q of a share p is
binomial: the k-th smallest value is at most q where at least k values lie at or below q, and at
least q where at most k - 1 lie below it. Neither asks how the values are distributed. Where one
value falls on another, the ends hold with more than their confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from goldfold.golden.errors import GoldenError

SHARE = 0.999
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Percentile:
    """The percentile of `share`. `lower` and `upper` hold with `confidence` each, `upper` is None
    where the largest of so few values may still lie below the percentile."""

    value: float
    """The smallest value that at least `share` of all values do not exceed."""
    lower: float | None
    upper: float | None
    share: float = SHARE
    confidence: float = CONFIDENCE


def percentile(
    values: Sequence[float], share: float = SHARE, confidence: float = CONFIDENCE
) -> Percentile:
    """The percentile of `share` of values, in any order, and its interval. Raises GoldenError for
    no values, and for a share or a confidence that is not between 0 and 1."""
    if not len(values) or not (0 < share < 1 and 0 < confidence < 1):
        raise GoldenError(
            f"{len(values)} values have no percentile {share} with confidence {confidence}"
        )
    order, count = sorted(values), len(values)
    # Of n values, share * n in exact arithmetic may be a whole number that f64 misses by its last
    # bit: 0.999 * 1000 is one.
    estimate = min(max(math.ceil(round(share * count, 9)), 1), count)
    lower, upper = ranks(count, share, confidence)
    return Percentile(
        value=order[estimate - 1],
        lower=order[lower - 1] if lower else None,
        upper=order[upper - 1] if upper else None,
        share=share,
        confidence=confidence,
    )


@lru_cache(maxsize=64)
def ranks(count: int, share: float, confidence: float) -> tuple[int, int]:
    """The places, from 1, of the values that are the lower and the upper end among `count` in
    order; 0 for none.

    lower: the largest k with P(at least k at or below q) >= confidence;
    upper: the smallest k with P(at most k - 1 below q) >= confidence.
    """
    below, lower, upper = 0.0, 0, 0
    for k in range(count):
        if below <= 1 - confidence:  # P(fewer than k at or below q)
            lower = k
        below += _chance(k, count, share)
        if not upper and below >= confidence:  # P(at most k below q)
            upper = k + 1
    return (count if below <= 1 - confidence else lower), upper


def least(share: float = SHARE, confidence: float = CONFIDENCE) -> int:
    """The fewest values whose largest is an upper end: P(all below q) <= 1 - confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(share))


def _chance(k: int, count: int, share: float) -> float:
    """The chance that k of `count` draws fall to `share`."""
    ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
    return math.exp(ways + k * math.log(share) + (count - k) * math.log1p(-share))
