"""Rescoring: search by bits, then rank the nearest few by int8 or float vectors.

    bits = encoder.embed_document(texts, output="ubinary")              # uint8 [N, D/8]
    stored = encoder.embed_document(texts, output="int8", ranges="one") # int8 [N, D]
    scores, places = rescore(encoder.embed_query(asked), stored, bits)

Hamming distance chooses `top_k * rescore_multiplier` documents for a query; the inner product of
the float query with their stored vectors ranks these. Where sentence-transformers' own int8 gives
every dimension a range of its own, which bends angles, one range for all keeps them: the inner
product of integers is then that of the vectors in steps, plus the same number for every document.
"""

from __future__ import annotations

import numpy as np

from goldfold.exporter.artifact.runnable import is_whole
from goldfold.exporter.errors import UsageError

_BLOCK = 1 << 16
"""Documents whose bits are compared at a time: 6 MB of 768 bits."""


def rescore(
    queries: np.ndarray,
    documents: np.ndarray,
    bits: np.ndarray | None = None,
    *,
    top_k: int = 10,
    rescore_multiplier: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Search documents by bits, and rank the nearest of them by their vectors.

    Args:
        queries: float [Q, D], or [D] for one query.
        documents: the vectors that rank, float or int8 [N, D]; int8 of one range for all
            dimensions. A memory-mapped array is read at the chosen rows alone, where `bits` are
            given.
        bits: the documents' bits, `ubinary` uint8 or `binary` int8 [N, ceil(D/8)]; by default the
            signs of `documents`.
        top_k: length of a list, at most N.
        rescore_multiplier: documents that bits choose for each place of the list.

    Returns:
        scores float32 [Q, K] and places int64 [Q, K], the best first, of equal ones the first
        document; [K] for one query. Scores of int8 documents are in steps.

    Raises UsageError for arrays that do not fit, and for queries that are not finite.
    """
    asked = np.asarray(queries)
    rows = _queries(asked)
    documents = _documents(documents, rows.shape[1])
    packed = _signs(documents) if bits is None else _bits(bits, *documents.shape)
    for name, value in (("top_k", top_k), ("rescore_multiplier", rescore_multiplier)):
        if not is_whole(value) or value < 1:
            raise UsageError(f"{name} is {value!r}; it must be a whole number from 1")
    top_k = min(int(top_k), len(documents))
    kept = min(top_k * int(rescore_multiplier), len(documents))
    scores = np.empty((len(rows), top_k), dtype=np.float32)
    places = np.empty((len(rows), top_k), dtype=np.int64)
    for at, (row, own) in enumerate(zip(rows, np.packbits(rows > 0, axis=1), strict=True)):
        chosen = np.sort(_near(own, packed, kept))
        found = np.asarray(documents[chosen], dtype=np.float32) @ row
        order = np.argsort(-found, kind="stable")[:top_k]
        scores[at], places[at] = found[order], chosen[order]
    return (scores, places) if asked.ndim == 2 else (scores[0], places[0])


def _near(own: np.ndarray, packed: np.ndarray, kept: int) -> np.ndarray:
    """Returns the places of the `kept` documents of the fewest differing bits, of equal ones the
    first."""
    blocks = [
        np.bitwise_count(packed[begin : begin + _BLOCK] ^ own).sum(axis=1, dtype=np.int64)
        for begin in range(0, len(packed), _BLOCK)
    ]
    apart = np.concatenate(blocks)
    key = apart * len(apart) + np.arange(len(apart))
    return np.argpartition(key, kept - 1)[:kept]


def _queries(given: np.ndarray) -> np.ndarray:
    if given.dtype.kind != "f" or given.ndim not in (1, 2) or 0 in given.shape[-1:]:
        raise UsageError(
            f"queries are {given.dtype} of shape {given.shape}; give float embeddings [Q, D]"
        )
    rows = np.atleast_2d(given).astype(np.float32)
    if not np.isfinite(rows).all():
        raise UsageError("a query is not finite; embed it again")
    return rows


def _documents(given: np.ndarray, dims: int) -> np.ndarray:
    given = given if isinstance(given, np.ndarray) else np.asarray(given)
    if given.ndim != 2 or not len(given) or not (given.dtype.kind == "f" or given.dtype == np.int8):
        raise UsageError(
            f"documents are {given.dtype} of shape {given.shape}; give float or int8 embeddings "
            "[N, D]"
        )
    if given.shape[1] != dims:
        raise UsageError(f"documents have {given.shape[1]} dimensions, and queries {dims}")
    return given


def _signs(documents: np.ndarray) -> np.ndarray:
    """Returns the signs of [N, D], packed: positive floats, and of int8 in one range -m … m what
    lies above the step around zero, which is -1."""
    whole = documents.dtype == np.int8
    blocks = []
    for begin in range(0, len(documents), _BLOCK):
        some = np.asarray(documents[begin : begin + _BLOCK])
        blocks.append(np.packbits(some >= 0 if whole else some > 0, axis=1))
    return np.concatenate(blocks)


def _bits(given: np.ndarray, count: int, dims: int) -> np.ndarray:
    given = given if isinstance(given, np.ndarray) else np.asarray(given)
    wanted = (count, -(-dims // 8))
    if given.shape != wanted or given.dtype not in (np.uint8, np.int8):
        raise UsageError(
            f"bits are {given.dtype} of shape {given.shape}; {count} documents of {dims} "
            f"dimensions have uint8 {list(wanted)} (output='ubinary')"
        )
    if given.dtype == np.uint8:
        return given
    return (given.view(np.uint8) ^ np.uint8(128)).view(np.uint8)  # binary is ubinary less 128
