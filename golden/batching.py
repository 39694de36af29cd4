"""The number of tokens that one call of an artifact may have."""

from __future__ import annotations

from collections.abc import Sequence

from goldfold.golden.store import Goldens
from goldfold.golden.tasks import SPARSE

_CROWDED = 64
"""Tokens of the longest text in the one call of all short texts: more rows than `embed` takes by
itself."""
_NUMBERS = 1 << 27
"""Numbers, one for each token and entry of a vocabulary, of a batch: 512 MiB in f32."""


def tokens_of(goldens: Goldens) -> int | None:
    """Returns the most tokens of a batch, padding included; None where nothing bounds them. A model
    of sparse vectors computes a number for each token and each entry of the vocabulary."""
    return max(1, _NUMBERS // goldens.dim) if goldens.task == SPARSE else None


def crowd_of(lengths: Sequence[int], most: int | None = None) -> list[int]:
    """Returns the rows of all short texts, or of as many of the shortest as `most` tokens hold."""
    short = [row for row, length in enumerate(lengths) if length <= _CROWDED]
    if most is None:
        return short
    order = sorted(short, key=lambda row: lengths[row])
    kept = [row for at, row in enumerate(order, start=1) if at * lengths[row] <= most]
    return sorted(kept)
