"""A metric is a figure of retrieval or rank quality: `judging` measures it and `gate` bounds it."""

from __future__ import annotations

from dataclasses import dataclass

RETRIEVAL = "retrieval nDCG@10"
"""The figure that a gate's `loss` bounds (gate.py)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure at one size. `loss` is 1 - artifact/reference; `upper` is the upper end of its
    95 % interval, None without resampling. `count` is of queries, pairs or texts."""

    name: str
    dims: int
    reference: float
    artifact: float
    loss: float
    upper: float | None
    count: int
