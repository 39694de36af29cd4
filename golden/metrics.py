"""A figure of what users feel, which `judging` measures and `gate` bounds."""

from __future__ import annotations

from dataclasses import dataclass

RETRIEVAL = "retrieval nDCG@10"
"""The figure that a gate's `loss` bounds (gate.py)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure at one size. `loss` is 1 - artifact/reference; `upper` ends its 95 % interval
    above, None where nothing is resampled. `count` is of queries, pairs or texts."""

    name: str
    dims: int
    reference: float
    artifact: float
    loss: float
    upper: float | None
    count: int
