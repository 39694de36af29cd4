"""Bounds on values in fp16 in words: of the build's line, of inspect and of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from goldfold.exporter.proofs import KindBounds

_NAMED = 3
"""Values that a sentence names before it counts the rest."""


def bounds_sentence(rows: Sequence[KindBounds]) -> str:
    """Says how many values in fp16 are bounded for every text, and names those that are not."""
    proved = sum(len(row.proved) for row in rows)
    others = [name for row in rows for name in row.calibrated]
    said = f"{proved:,} of {proved + len(others):,} values in fp16 are below 65,504 for every text"
    if not others:
        return said
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    return f"{said}; by calibration alone: {', '.join(others[:_NAMED])}{more}"


def bound_of(bound: float) -> str:
    """The bound in words; "none" where there is none."""
    return f"{bound:,.3g}" if bound < 1000 else "none" if bound == math.inf else f"{bound:,.0f}"
