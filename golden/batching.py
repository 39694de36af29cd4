"""The number of tokens that one call of an artifact may have."""

from __future__ import annotations

from collections.abc import Sequence

from goldfold.golden.store import Goldens
from goldfold.golden.tasks import SPARSE

_PAIRS = 1 << 25
"""Pairs of tokens in a batch: where attention is not fused, each head has one f32 score per pair,
which takes 2 GiB for 16 heads."""

_CROWDED = 64
"""Tokens of the longest text in the one call of all short texts: more rows than `embed` takes by
itself."""
_NUMBERS = 1 << 27
"""Numbers, one for each token and entry of a vocabulary, of a batch: 512 MiB in f32."""


def tokens_of(goldens: Goldens) -> int | None:
    """Returns the most tokens of a batch, padding included; None where nothing bounds them. A model
    of sparse vectors computes a number for each token and each entry of the vocabulary."""
    return max(1, _NUMBERS // goldens.dim) if goldens.task == SPARSE and not goldens.units else None


def crowd_of(lengths: Sequence[int], most: int | None = None) -> list[int]:
    """Returns the rows of all short texts, or of as many of the shortest as `most` tokens hold."""
    short = [row for row, length in enumerate(lengths) if length <= _CROWDED]
    if most is None:
        return short
    order = sorted(short, key=lambda row: lengths[row])
    kept = [row for at, row in enumerate(order, start=1) if at * lengths[row] <= most]
    return sorted(kept)


def mixed_batches(
    lengths: Sequence[int], size: int = 4, most: int | None = None
) -> list[tuple[int, ...]]:
    """Deal all texts into batches of at most `size`, half from the long end, half from the short.

    Padding does harm where a long text stands beside a short one (whole attention rows see only
    padding). Taking the long ones two by two keeps the padded total small, since a batch costs its
    longest text. Very long ones go by themselves: memory grows with their square. `most` bounds the
    tokens of a batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = []
    while order:
        longest = max(lengths[order[-1]], 1)
        rows = min(size, _PAIRS // longest**2, size if most is None else most // longest)
        rows = max(1, rows)
        long = [order.pop() for _ in range(min(rows - rows // 2, len(order)))]
        short = [order.pop(0) for _ in range(min(rows // 2, len(order)))]
        # Alternating rows, so that neither kind always comes first.
        paired = [r for pair in zip(long, short, strict=False) for r in pair]
        batches.append((*paired, *long[len(short) :], *short[len(long) :]))
    return batches
