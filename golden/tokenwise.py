"""The comparison of models that give a vector for each token (late interaction).

A text's vectors [S, D] are compared token by token, and the worst token stands for the text. Texts
are compared by MaxSim, for each token of a query the most similar token of a document:

    maxsim(q, d) = mean over i of max over j of q_i·d_j

over the tokens that count. It is the mean here, not the sum, so that one bound holds for queries of
any length: |max_j a_j − max_j b_j| ≤ max_j |a_j − b_j|, so MaxSim is off by no more than the dot
product of two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from goldfold.golden.store import Goldens

Counted = Callable[[Sequence[int], str], Sequence[int]]
"""(token ids, call) -> the places of the tokens that count in an artifact."""

QUERY, DOCUMENT = "encode_query", "encode_document"
RANKED = "ranked"
"""The kind of the cases that are ranked, and of those that they are ranked for."""


def figures(found: np.ndarray, golden: np.ndarray) -> tuple[float, float, float]:
    """Returns the largest 1-cos, error of a norm and difference of two numbers among the tokens of
    a text, both f64 [S, D]; `found` may have rows of padding below. inf where a vector is not
    finite, or zero, or lacking."""
    found = found[: len(golden)]
    beyond = (float("inf"), float("inf"), float("inf"))
    if found.shape != golden.shape or not np.isfinite(found).all():
        return beyond
    norms, owed = (np.linalg.norm(rows, axis=1) for rows in (found, golden))
    if not norms.all():
        return beyond
    apart = found / norms[:, None] - golden / owed[:, None]
    return (
        float(0.5 * (apart**2).sum(axis=1).max(initial=0.0)),
        float(np.abs(norms / owed - 1.0).max(initial=0.0)),
        float(np.abs(found - golden).max(initial=0.0)),
    )


def maxsim(query: np.ndarray, document: np.ndarray) -> float:
    """Returns the mean over the query's tokens [Q, D] of the largest dot product with a token of
    the document [T, D]; 0 without tokens."""
    if not len(query) or not len(document):
        return 0.0
    return float((query @ document.T).max(axis=1).mean())


def rankings(
    found: Sequence[np.ndarray], golden: Sequence[np.ndarray], goldens: Goldens
) -> Iterator[tuple[str, list[str], np.ndarray, np.ndarray]]:
    """Yields each query, the ids of the ranked documents, and their MaxSim in `found` and in
    `golden`, lists of [S, D] in the goldens' order. The scale of a model that does not normalise is
    that of its longest vectors."""
    scale = scale_of(golden, goldens)
    cases = goldens.cases
    ranked = [at for at, case in enumerate(cases) if case.kind == RANKED]
    documents = [at for at in ranked if cases[at].call == DOCUMENT]
    for at in ranked:
        if cases[at].call != QUERY or len(documents) < 2:
            continue
        scores = [
            [maxsim(rows[at][cases[at].counted], rows[d][cases[d].counted]) for d in documents]
            for rows in (found, golden)
        ]
        ids = [cases[d].id for d in documents]
        yield cases[at].text, ids, np.array(scores[0]) / scale, np.array(scores[1]) / scale


def similarity_error(
    found: Sequence[np.ndarray], golden: Sequence[np.ndarray], goldens: Goldens
) -> float:
    """Returns the largest error of MaxSim; inf if a vector is not finite."""
    worst = 0.0
    for _, _, e, g in rankings(found, golden, goldens):
        apart = np.abs(e - g)
        worst = max(worst, float(apart.max()) if np.isfinite(apart).all() else float("inf"))
    return worst


def scale_of(golden: Sequence[np.ndarray], goldens: Goldens) -> float:
    """Returns 1 for a model that normalises, else the square of the longest vector's norm."""
    if goldens.normalized:
        return 1.0
    return max(float(np.linalg.norm(rows, axis=1).max()) for rows in golden) ** 2


def count_faults(counted: Counted, goldens: Goldens) -> Iterator[tuple[str, str]]:
    """Yields the id of each case of which other tokens count in an artifact than in the reference,
    and how they differ."""
    for case in goldens.cases:
        found, owed = list(counted(case.token_ids, case.call)), case.counted
        if found != owed:
            first = min(set(found) ^ set(owed))
            said = "counts and should not" if first in set(found) else "should count and does not"
            note = (
                f"in what takes part in scores: {len(found)} of {len(case.token_ids)} instead of "
                f"{len(owed)}, first the token at {first}, which {said}"
            )
            yield case.id, note
