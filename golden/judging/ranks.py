"""Rank metrics of embeddings: correlations, top-k overlap and nDCG; also embeddings in int8 and in
bits.

All arithmetic is in f64 on normalised rows. Ties take their mean everywhere, so that no figure
depends on the order of the texts: embeddings of bits tie often.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from goldfold.golden.errors import GoldenError, Unrankable

TOP = 10
"""The length of a list that people look at: nDCG@10, and the overlap of the ten nearest."""

RESCORED = 40
"""Documents that bits choose for each query, to be ranked by more than bits: four for each place of
the list, as sentence-transformers' rescore_multiplier has it."""

_CHUNK = 512
"""Queries scored at once; 512 against 3,000 texts take 12 MB."""


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 1 … N of [N], ascending; equal values share the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[where]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r of two vectors [N]; 0 where one of them is constant, which predicts nothing."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r of the ranks."""
    return pearson(ranks(a), ranks(b))


def similarities(rows: np.ndarray) -> np.ndarray:
    """Cosines of all pairs of [N, D]; f64 [N, N]."""
    unit = normalised(rows)
    return unit @ unit.T


def normalised(rows: np.ndarray, dims: int | None = None) -> np.ndarray:
    """The first `dims` components of [N, D], each row divided by its norm; f64.

    Raises Unrankable for a row that is not finite, or zero.
    """
    cut = np.asarray(rows, dtype=np.float64)[:, :dims]
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise Unrankable("an embedding is not finite, or zero: there is nothing to rank")
    return cut / norms


def rank_agreements(reference: np.ndarray, artifact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Spearman, overlap of the ten nearest) of each row [N] of both similarity matrices.

    Row i ranks every other text by its similarity to text i. Needs more than two texts.
    """
    ours, theirs = similarities(artifact), similarities(reference)
    count = len(ours)
    if count < 3:
        raise GoldenError(f"{count} texts are too few to rank")
    top = min(TOP, count - 1)
    agreements, overlaps = [], []
    for i in range(count):
        others = np.arange(count) != i
        a, b = ours[i, others], theirs[i, others]
        agreements.append(spearman(a, b))
        nearest = [set(np.argsort(-row, kind="stable")[:top].tolist()) for row in (a, b)]
        overlaps.append(len(nearest[0] & nearest[1]) / top)
    return np.array(agreements), np.array(overlaps)


def ndcg(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query [N] where row i of `documents` is its one answer, by cosine.

    With one answer at rank r this is 1/log2(1+r), and 0 beyond rank ten.
    """
    queries, documents = normalised(queries), normalised(documents)
    return gains(lambda rows: queries[rows] @ documents.T, len(queries))


def ndcg_int8(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The same for int8 [N, D] on both sides: sentence-transformers' own int8 index ranks by this
    inner product of integers, without rescoring. Exact in f64."""
    a, b = (side.astype(np.float64) for side in (queries, documents))
    return gains(lambda rows: a[rows] @ b.T, len(a))


def ndcg_binary(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """The same for uint8 [N, D/8] packed bits on both sides: fewest differing bits first."""
    a, b = (_signs(packed) for packed in (queries, documents))
    return gains(lambda rows: a[rows] @ b.T, len(queries))


def ndcg_rescored(
    packed: tuple[np.ndarray, np.ndarray], rows: tuple[np.ndarray, np.ndarray], kept: int = RESCORED
) -> np.ndarray:
    """The same where bits choose `kept` documents, and rows [N, D] of (queries, documents) rank
    these by inner product. A document with as many differing bits as the last of them is kept as
    well, so that no order of the documents decides."""
    a, b = map(_signs, packed)
    queries, documents = (side.astype(np.float64) for side in rows)

    def scores(some: np.ndarray) -> np.ndarray:
        near = a[some] @ b.T
        last = np.partition(near, -min(kept, near.shape[1]), axis=1)[:, [-min(kept, len(b))]]
        return np.where(near >= last, queries[some] @ documents.T, -np.inf)

    return gains(scores, len(a))


def _signs(packed: np.ndarray) -> np.ndarray:
    """Bits as ±1: their dot product is the number of bits minus twice the differing ones."""
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def gains(scores: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """nDCG@10 of each query [count]: `scores` gives those of some queries [R] with all documents,
    [R, N], and document i is the one answer of query i."""
    ideal = 1 / np.log2(1 + np.arange(1, TOP + 1))
    # total[r] is the gain of ranks 1 … r together, so a tie's mean is a difference of two.
    total = np.concatenate([[0.0], np.cumsum(ideal)])
    found = np.empty(count)
    for begin in range(0, count, _CHUNK):
        rows = np.arange(begin, min(begin + _CHUNK, count))
        score = scores(rows)
        own = score[np.arange(len(rows)), rows][:, None]
        better, level = (score > own).sum(axis=1), (score == own).sum(axis=1)
        first, last = (np.minimum(n, TOP) for n in (better, better + level))
        found[rows] = (total[last] - total[first]) / level
    return found


def int8(rows: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Rows [N, D] in 255 steps between ranges[0] and ranges[1] [D], as int8 from -128.

    The definition is sentence-transformers': floor, clipped, 128 subtracted; a dimension without
    extent has step 1.
    """
    low, high = np.asarray(ranges, dtype=np.float32)
    step = (high - low) / 255
    step = np.where(step == 0, 1, step)
    return (np.clip(np.floor((rows - low) / step), 0, 255) - 128).astype(np.int8)


def bits(rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] as packed sign bits, uint8 [N, ceil(D/8)]; 1 is positive."""
    return np.packbits(rows > 0, axis=-1)
