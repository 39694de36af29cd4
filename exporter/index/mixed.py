"""Mixed retrieval: queries of one side over documents of the other, and the share of nDCG@10 that
this loses, with the upper end of a paired bootstrap's 95 % interval."""

from __future__ import annotations

import numpy as np

from goldfold.exporter.artifact.runnable import similarity
from goldfold.golden.judging import bootstrap, ranks
from goldfold.golden.metrics import Metric

FORWARD = "queries by NEW, documents by OLD"
REVERSE = "queries by OLD, documents by NEW"
REBUILT = "queries and documents by NEW"
AGREEMENT = "rank agreement of NEW's queries"
OVERLAP = f"top-{ranks.TOP} overlap of NEW's queries"

_RANKED = 200
"""Queries whose whole rankings are compared."""
_BLOCK = 64


def scores(queries: np.ndarray, documents: np.ndarray, name: str) -> np.ndarray:
    """nDCG@10 of each query [N], by the similarity that a model names; row i of `documents` is the
    one answer."""
    if name == "cosine":
        return ranks.ndcg(queries, documents)
    found = np.empty(len(queries))
    for begin in range(0, len(queries), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        # The answers of a block stand in front, so that the block is square-topped for `gains`.
        order = np.r_[np.arange(len(queries))[rows], np.arange(begin)]
        order = np.r_[order, np.arange(min(begin + _BLOCK, len(queries)), len(queries))]
        table = _similar(queries[rows], documents[order], name)
        found[rows] = ranks.gains(lambda places, table=table: table[places], len(table))
    return found


def losses(
    queries: tuple[np.ndarray, np.ndarray], documents: tuple[np.ndarray, np.ndarray], name: str
) -> tuple[Metric, ...]:
    """Metrics of (OLD's, NEW's) queries and documents, against OLD's queries over OLD's documents;
    `name` is the similarity."""
    base = scores(queries[0], documents[0], name)
    ways = {FORWARD: (1, 0), REVERSE: (0, 1), REBUILT: (1, 1)}
    found = []
    for said, (asking, asked) in ways.items():
        found.append(metric(said, base, scores(queries[asking], documents[asked], name), documents))
    return (*found, *agreements(queries[0], queries[1], documents[0], name))


def metric(
    name: str, base: np.ndarray, found: np.ndarray, documents: tuple[np.ndarray, ...]
) -> Metric:
    """Returns the loss of scores [N] against those of the same queries."""
    lost, upper = bootstrap.mean_loss(base, found)
    size = documents[0].shape[1]
    return Metric(name, size, float(base.mean()), float(found.mean()), lost, upper, len(found))


def agreements(
    old: np.ndarray, new: np.ndarray, documents: np.ndarray, name: str
) -> tuple[Metric, ...]:
    """Returns how alike the queries [N, D] of both sides rank the same documents: the mean Spearman
    correlation, and the mean share of the ten nearest in common."""
    same, shared = [], []
    top = min(ranks.TOP, len(documents))
    for a, b in zip(old[:_RANKED], new[:_RANKED], strict=True):
        one, other = (_similar(row[None], documents, name)[0] for row in (a, b))
        same.append(ranks.spearman(one, other))
        tops = [set(np.argsort(-row, kind="stable")[:top].tolist()) for row in (one, other)]
        shared.append(len(tops[0] & tops[1]) / top)
    found = []
    for said, values in ((AGREEMENT, same), (OVERLAP, shared)):
        found.append(metric(said, np.ones(len(values)), np.array(values), (documents,)))
    return tuple(found)


def _similar(queries: np.ndarray, documents: np.ndarray, name: str) -> np.ndarray:
    if name == "manhattan":  # without a block of all differences at once
        return np.stack([-np.abs(row - documents).sum(axis=1) for row in queries])
    if name == "euclidean":  # monotone in −‖q − d‖
        squares = (documents.astype(np.float64) ** 2).sum(axis=1)
        return 2 * (queries.astype(np.float64) @ documents.T) - squares
    return similarity(queries, documents, name)
