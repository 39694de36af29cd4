"""Real indexes: the mixed loss through faiss, whose flat, HNSW and int8 indexes people run, and
through bits with rescoring.

Each index holds OLD's documents and is asked by OLD's queries, as today, and by NEW's. faiss is
optional: what needs it is left out, with one line that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from goldfold.exporter.artifact.embedding_types import one_range, quantize
from goldfold.exporter.artifact.rescoring import rescore
from goldfold.exporter.index.mixed import metric
from goldfold.golden.judging.ranks import TOP
from goldfold.golden.metrics import Metric

Search = Callable[[np.ndarray], np.ndarray]
"""Queries float32 [Q, D] -> places int64 [Q, K], the best first; -1 where there are no more."""

LINKS = 32
"""Links of an HNSW node, faiss's usual number."""
EFFORT = (200, 64)
"""Candidates of HNSW while it is built, and while it is searched."""

ABSENT = "faiss is not installed (pip install 'goldfold[compat]'): no index of it was asked"


def losses(
    queries: tuple[np.ndarray, np.ndarray], documents: np.ndarray, similarity: str
) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """Returns the loss of NEW's queries against OLD's, of (OLD's, NEW's) queries over OLD's
    documents, through each index; and what was left out, in one line each."""
    if similarity not in ("cosine", "dot"):
        return (), (f"the similarity is {similarity}: no index was asked, they rank by angles",)
    if similarity == "cosine":
        queries = (_unit(queries[0]), _unit(queries[1]))
        documents = _unit(documents)
    searches, missing = _searches(np.ascontiguousarray(documents, dtype=np.float32))
    found = []
    for name, search in searches:
        base, mixed = (_gains(search(np.ascontiguousarray(q, np.float32))) for q in queries)
        found.append(metric(name, base, mixed, (documents,)))
    return tuple(found), missing


def _searches(documents: np.ndarray) -> tuple[list[tuple[str, Search]], tuple[str, ...]]:
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return list(_ours(documents)), (ABSENT,)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # several link the nodes of HNSW in another order each time
    try:
        return [*_faiss(faiss, documents), *_ours(documents)], ()
    finally:
        faiss.omp_set_num_threads(threads)


def _faiss(faiss: Any, documents: np.ndarray) -> Iterator[tuple[str, Search]]:
    size = documents.shape[1]
    hnsw = faiss.IndexHNSWFlat(size, LINKS, faiss.METRIC_INNER_PRODUCT)
    hnsw.hnsw.efConstruction, hnsw.hnsw.efSearch = EFFORT
    integers = faiss.IndexScalarQuantizer(
        size, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    for name, index in (
        ("faiss flat", faiss.IndexFlatIP(size)),
        (f"faiss HNSW, {LINKS} links", hnsw),
        ("faiss int8 scalar quantizer", integers),
    ):
        if not index.is_trained:
            index.train(documents)
        index.add(documents)
        yield name, lambda queries, index=index: index.search(queries, min(TOP, index.ntotal))[1]
    if size % 8:
        return  # faiss packs whole bytes
    bits = faiss.IndexBinaryFlat(size)
    bits.add(np.packbits(documents > 0, axis=1))

    def binary(queries: np.ndarray) -> np.ndarray:
        kept = min(4 * TOP, len(documents))
        places = bits.search(np.packbits(queries > 0, axis=1), kept)[1]
        order = [
            some[np.argsort(-(documents[some] @ row), kind="stable")]
            for row, some in zip(queries, places, strict=True)
        ]
        return np.stack(order)[:, :TOP]

    yield f"faiss binary, {4 * TOP} by float32", binary


def _ours(documents: np.ndarray) -> Iterator[tuple[str, Search]]:
    """Yields the search of `goldfold.rescore`, which needs numpy alone."""
    whole = one_range(documents)
    stored = quantize(documents, "int8", whole, lambda: whole)
    bits = np.packbits(documents > 0, axis=1)
    yield (
        f"goldfold.rescore, {4 * TOP} by int8",
        lambda queries: rescore(queries, stored, bits, top_k=TOP)[1],
    )


def _gains(places: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query where document i is the one answer of query i: 1/log2(1 + rank)."""
    own = places == np.arange(len(places))[:, None]
    rank = own.argmax(axis=1) + 1
    return np.where(own.any(axis=1), 1 / np.log2(1 + rank), 0.0)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
