"""The tasks: what a model gives for its input, and how two results of it are compared.

| task | input | result | compared by |
|---|---|---|---|
| `embedding` | a text | a vector [D] | 1−cos |
| `scores` | a pair of texts | a logit for each label [L] | the logits' error, on a scale |
| `sparse` | a text | a weight for each token of a vocabulary, or unit [V] | 1−cos, the non-zeros |
| `multi_vector` | a text | a vector for each token [S, D] | 1−cos of each token |

The scale of scores is the largest logit of the goldens, and at least 1: a logit is a sum whose
rounding follows the size of what is summed, not that of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

EMBEDDING, SCORES, SPARSE, MULTI = "embedding", "scores", "sparse", "multi_vector"
TASKS = (EMBEDDING, SCORES, SPARSE, MULTI)

QUANTITY: Mapping[str, str] = {
    EMBEDDING: "1−cos",
    SCORES: "logit error",
    SPARSE: "1−cos",
    MULTI: "1−cos of a token",
}
"""The measured quantity of each task, in words."""


def scale_of(golden: np.ndarray) -> float:
    """Returns the scale of logits [N, L], or of sparse vectors [N, V]."""
    return max(1.0, float(np.abs(golden).max(initial=0.0)))


NOTHING = 1e-6
"""A weight of a sparse vector that f32 cannot tell from zero, on the goldens' scale."""
ROUNDINGS = 4
"""How many of the reference's roundings an artifact may be off by: its own f32 and the reference's
are each off by one, and the reference's is measured on some of the inputs, so twice that."""


def strays(found: np.ndarray, golden: np.ndarray, least: float, units: int = 0) -> int:
    """Returns the number of entries of sparse vectors [V] that are zero in one, and in the other
    above `least`. Of a CSR that keeps `units`, above the k-th largest of the one by `least`; and
    those of `found` that are too many."""
    lost, gained = (found == 0) & (golden > 0), (golden == 0) & (found > 0)
    lost &= golden > floor(found, units) + least
    gained &= found > floor(golden, units) + least
    over = int(np.count_nonzero(found)) - units if units else 0
    return int((lost | gained).sum()) + max(0, over)


def floor(row: np.ndarray, units: int) -> float:
    """Returns what a unit must be above to be among the `units` largest of [V]: the least of these,
    or 0 where they are not all positive, or not limited."""
    return max(0.0, float(-np.partition(-row, units - 1)[units - 1])) if units else 0.0


def level(found: np.ndarray, golden: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two sparse vectors [V] of a CSR as they are where both keep the same units.

    A unit that one of the two keeps alone was at most as large in the other as the least that this
    one keeps. It is given that number there, or its own if that is less: of all vectors before the
    choice that give these two, the nearest. So units that are nearly equal may change places, and a
    larger one that is missing counts with what it is above. A vector of more than `units` is left
    as it is, and so are vectors without a limit.
    """
    if not units or np.count_nonzero(found) > units:
        return found, golden
    lost, gained = (found == 0) & (golden > 0), (golden == 0) & (found > 0)
    e = np.where(lost, np.minimum(golden, floor(found, units)), found)
    return e, np.where(gained, np.minimum(found, floor(golden, units)), golden)


def least_of(golden: np.ndarray, rounding: float) -> float:
    """Returns the least weight that counts as one: above the rounding of f32, which the goldens
    state for the reference."""
    return max(NOTHING, ROUNDINGS * rounding) * scale_of(golden)


def gap_error(
    found: np.ndarray, golden: np.ndarray, groups: Sequence[Sequence[int]], scale: float
) -> float:
    """Returns the largest error of a difference between two documents' logits [N, L] for one query,
    on the scale of the goldens: at most twice a logit's. `groups` are the rows of each query."""
    worst = 0.0
    for rows in groups:
        e, g = found[list(rows)], golden[list(rows)]
        if not np.isfinite(e).all():
            return float("inf")
        apart = np.abs((e[:, None] - e[None]) - (g[:, None] - g[None]))
        worst = max(worst, float(apart.max(initial=0.0)) / scale)
    return worst


def turned(found: np.ndarray, golden: np.ndarray, gap: float) -> Iterator[tuple[int, int]]:
    """Yields the pairs of rows (i, j) that `golden` [N] ranks i before j, by more than `gap`, and
    `found` [N] ranks j before i."""
    for i, j in zip(*np.nonzero(golden[:, None] - golden[None] > gap), strict=True):
        if not found[i] > found[j]:
            yield int(i), int(j)


def ndcg(found: np.ndarray, golden: np.ndarray, depth: int = 10) -> float:
    """Returns nDCG@`depth` of the order of `found` [N], whose gains are the scores `golden` [N],
    moved and stretched to 0 … 1. 1 where all of them are equal."""
    low, high = float(golden.min()), float(golden.max())
    if not high > low:
        return 1.0
    gains = (golden - low) / (high - low)
    weights = 1.0 / np.log2(np.arange(2, len(gains) + 2))[:depth]
    order = np.argsort(-np.where(np.isfinite(found), found, -np.inf), kind="stable")
    best = np.sort(gains)[::-1]
    return float((gains[order][:depth] * weights).sum() / (best[:depth] * weights).sum())
