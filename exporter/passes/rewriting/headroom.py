"""The power of two that keeps a value below fp16's end, chosen by a bound or by calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

FP16_MAX = 65504.0
HEADROOM = 8.0
"""The factor by which a value's largest magnitude on calibration texts must stay below fp16's
limit: other texts reach further. A bound that holds for every text needs none."""
LEAST = 2.0**-8
"""The least that a bound may scale a value's largest magnitude on calibration texts to. Where the
root mean square of its numbers is 2^-5 of the largest, or more, it is then at least 2^-13, and half
a step of fp16's subnormals, 2^-25, is no more than an ordinary rounding, 2^-12 of that."""
LEAST_WEIGHT = 2.0**-13
"""Likewise the least root mean square of weights that a bound scales."""


@dataclass(frozen=True)
class Demand:
    """The least k for which a value times 2^-k has room in fp16, and the magnitude that says so."""

    exponent: int
    reach: float
    """The bound, or the largest magnitude on calibration texts."""
    proved: bool
    """Whether the bound chose."""


def calibrated(peak: float) -> Demand:
    """peak · 2^-k · HEADROOM ≤ FP16_MAX. An infinity, which no power of two makes finite, demands
    nothing: a mask's −inf is selected away later."""
    found = _least(peak * HEADROOM) if 0 < peak < math.inf else 0
    return Demand(found, peak, proved=False)


def demand(peak: float | None, bound: float | None) -> Demand:
    """The bound chooses, bound · 2^-k ≤ FP16_MAX, unless there is none, or it is so far beyond what
    texts reach that their own numbers would lose digits: then calibration does."""
    by_texts = calibrated(peak or 0.0)
    if bound is None or not math.isfinite(bound):
        return by_texts
    by_bound = Demand(_least(bound), bound, proved=True)
    small = peak is not None and peak * 2.0**-by_bound.exponent < LEAST
    return by_texts if small and by_bound.exponent > by_texts.exponent else by_bound


def _least(magnitude: float) -> int:
    return max(0, math.ceil(math.log2(magnitude / FP16_MAX))) if magnitude > 0 else 0


def demands(peaks: Mapping[str, float], bounds: Mapping[str, float]) -> dict[str, Demand]:
    """`demand` by value name."""
    return {name: demand(peaks.get(name), bounds.get(name)) for name in {**peaks, **bounds}}
