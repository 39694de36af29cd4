"""The judge compares embeddings with the reference's: rank agreement, people's judgements, code
retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.judging import bootstrap, collection, ranks
from goldfold.golden.judging.collection import Collection
from goldfold.golden.judging.lee import Lee
from goldfold.golden.judging.pairs import Pairs
from goldfold.golden.judging.reference import Embed
from goldfold.golden.metrics import RETRIEVAL, Metric
from goldfold.golden.store import Goldens

SHORTER = 256
"""The second size of a model with more dimensions; a smaller model's is a quarter of its own."""

RANKS = ("rank agreement", f"top-{ranks.TOP} overlap")
"""The figures that need the goldens alone."""

OWN = "your retrieval, "
"""The beginning of the names of figures of a user's own collection."""

_LIMITED = (RETRIEVAL, "Lee corpus, Pearson", "Lee corpus, Spearman")

Notice = Callable[[str], None]
"""Called with the name of the next embedding or measuring step."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All figures of an artifact; `pairs_digest` names the retrieval set ("" if it was skipped)."""

    metrics: tuple[Metric, ...]
    pairs_digest: str
    resamples: int

    @property
    def worst(self) -> Metric | None:
        """The metric with the largest upper bound, of retrieval and the Lee corpus with float
        embeddings; `goldfold judge --limit` is compared with it."""
        limited = (m for m in self.metrics if m.name in _LIMITED or m.name.startswith(OWN))
        bounded = [m for m in limited if m.upper is not None]
        return max(bounded, key=lambda m: m.upper or 0.0, default=None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def sizes(dim: int) -> tuple[int, int]:
    """The sizes that a model of `dim` dimensions is judged at: its own, and 256 or a quarter."""
    return dim, SHORTER if dim > SHORTER else max(1, dim // 4)


@dataclass(frozen=True)
class Sets:
    """The data of a judgement; None leaves a part out."""

    goldens: Goldens | None = None
    """The reference's own rows."""
    lee: Lee | None = None
    pairs: Pairs | None = None
    own: Collection | None = None
    """A user's own collection, in place of `pairs`."""


def judge(
    embed: Embed,
    reference: Embed,
    sets: Sets,
    *,
    dims: Sequence[int] | None = None,
    resamples: int = bootstrap.RESAMPLES,
    notice: Notice = lambda what: None,
) -> Judgement:
    """Measure `embed` against `reference` on the data of `sets`.

    `dims` are sizes to cut to (normalised again). The reference is first cut to the size of
    `embed`, so an artifact of 256 dimensions is judged as one. Raises GoldenError for embeddings
    that are not finite, of the wrong shape, or too few.
    """
    goldens, lee, pairs, own = sets.goldens, sets.lee, sets.pairs, sets.own
    metrics: list[Metric] = []
    if goldens is not None:
        notice("golden texts")
        # A call cuts texts by its own settings; the other texts are read unchanged.
        kept = [row for row, case in enumerate(goldens.cases) if not case.call]
        texts = [goldens.cases[row].prompt + goldens.cases[row].text for row in kept]
        ours = _rows(embed, texts, "plain")
        metrics += rank_metrics(goldens.embeddings[kept], ours, dims, resamples)
    if lee is not None:
        notice("Lee corpus")
        ours = _rows(embed, lee.texts, "plain")
        notice("Lee corpus, reference")
        theirs = _rows(reference, lee.texts, "plain")
        for size in dims or sizes(ours.shape[1]):
            notice(f"Lee corpus, {size} dimensions")
            metrics += _lee_metrics(lee, _cut((theirs, ours), size), resamples)
    if pairs is not None:
        found = []
        for name, each in (("", embed), (", reference", reference)):
            for kind, texts in (("query", pairs.queries), ("document", pairs.documents)):
                notice(f"{kind} texts{name}")
                found.append(_rows(each, texts, kind))
        for size in dims or sizes(found[0].shape[1]):
            notice(f"retrieval, {size} dimensions")
            stored = None if goldens is None else ranks.normalised(goldens.embeddings, size)
            metrics += _retrieval_metrics(_cut(found, size), stored, resamples)
    if own is not None:
        found = [
            _rows(each, texts, kind)
            for each in (embed, reference)
            for kind, texts in (("query", own.queries), ("document", own.documents))
        ]
        for size in dims or sizes(found[0].shape[1]):
            notice(f"your retrieval, {size} dimensions")
            metrics += _own_metrics(own, _cut(found, size), resamples)
    digest = pairs.digest if pairs else own.digest if own else ""
    return Judgement(tuple(metrics), digest, resamples)


def rank_metrics(
    reference: np.ndarray,
    artifact: np.ndarray,
    dims: Sequence[int] | None = None,
    resamples: int = bootstrap.RESAMPLES,
) -> list[Metric]:
    """The agreement of the goldens' rows [N, D] and ours in ranking each other, at each size; texts
    are resampled. The reference agrees with itself wholly: 1. Raises GoldenError as `judge` does.
    """
    metrics = []
    for size in dims or sizes(artifact.shape[1]):
        agreements, overlaps = ranks.rank_agreements(*_cut((reference, artifact), size))
        for name, scores in zip(RANKS, (agreements, overlaps), strict=True):
            lost, upper = bootstrap.mean_loss(np.ones(len(scores)), scores, resamples)
            mean = float(scores.mean())
            metrics.append(Metric(name, size, 1.0, mean, lost, upper, len(scores)))
    return metrics


def _lee_metrics(lee: Lee, rows: Sequence[np.ndarray], resamples: int) -> list[Metric]:
    """Metrics of (the reference's texts, ours)."""
    size, (theirs, ours) = rows[0].shape[1], map(ranks.similarities, rows)
    upper = np.triu_indices(len(lee.people), 1)
    metrics = []
    for name, correlation in (("Pearson", ranks.pearson), ("Spearman", ranks.spearman)):
        reference, artifact = (correlation(lee.people[upper], m[upper]) for m in (theirs, ours))
        lost, bound = bootstrap.pair_loss(correlation, lee.people, theirs, ours, resamples)
        name, count = f"Lee corpus, {name}", len(upper[0])
        metrics.append(Metric(name, size, reference, artifact, lost, bound, count))
    return metrics


def _retrieval_metrics(
    rows: Sequence[np.ndarray], stored: np.ndarray | None, resamples: int
) -> list[Metric]:
    """Metrics of (our queries, our documents, the reference's queries, its documents). The int8
    ranges are those of the stored goldens, or of the documents if there are none: one per
    dimension, as sentence-transformers takes them, or one for all, which keeps angles. Rescoring
    takes float queries, and documents in int8 of the one range, or in float."""
    queries, documents, their_queries, their_documents = rows
    kept = f"{ranks.RESCORED} rescored by"
    baseline = ranks.ndcg(their_queries, their_documents)
    source = documents if stored is None else stored
    own = np.stack([source.min(axis=0), source.max(axis=0)])
    one = np.outer([-1, 1], np.full(source.shape[1], np.abs(source).max()))
    whole, even = ([ranks.int8(side, r) for side in (queries, documents)] for r in (own, one))
    packed = [ranks.bits(side) for side in (queries, documents)]
    scores = {
        RETRIEVAL: ranks.ndcg(queries, documents),
        f"{RETRIEVAL}, int8 embeddings": ranks.ndcg_int8(*whole),
        f"{RETRIEVAL}, int8 embeddings, one range": ranks.ndcg_int8(*even),
        f"{RETRIEVAL}, binary embeddings": ranks.ndcg_binary(*packed),
        f"{RETRIEVAL}, binary embeddings, {kept} int8": ranks.ndcg_rescored(
            (packed[0], packed[1]), (queries, even[1])
        ),
        f"{RETRIEVAL}, binary embeddings, {kept} float32": ranks.ndcg_rescored(
            (packed[0], packed[1]), (queries, documents)
        ),
    }
    metrics = []
    for name, score in scores.items():
        lost, bound = bootstrap.mean_loss(baseline, score, resamples)
        reference, artifact = float(baseline.mean()), float(score.mean())
        size, count = queries.shape[1], len(score)
        metrics.append(Metric(name, size, reference, artifact, lost, bound, count))
    return metrics


def _own_metrics(own: Collection, rows: Sequence[np.ndarray], resamples: int) -> list[Metric]:
    """Metrics of (our queries, our documents, the reference's queries, its documents)."""
    queries, documents, their_queries, their_documents = rows
    ours = collection.metrics(own, queries, documents)
    theirs = collection.metrics(own, their_queries, their_documents)
    size, found = queries.shape[1], []
    for name, scores in ours.items():
        lost, bound = bootstrap.mean_loss(theirs[name], scores, resamples)
        reference, artifact = float(theirs[name].mean()), float(scores.mean())
        found.append(Metric(OWN + name, size, reference, artifact, lost, bound, len(scores)))
    return found


def _rows(embed: Embed, texts: Sequence[str], kind: str) -> np.ndarray:
    rows = np.asarray(embed(list(texts), kind))
    if rows.ndim != 2 or len(rows) != len(texts):
        raise GoldenError(f"{len(texts)} texts gave embeddings of shape {rows.shape}")
    return rows


def _cut(every: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    short = min(rows.shape[1] for rows in every)
    if not 1 <= size <= short:
        raise GoldenError(f"embeddings of {short} dimensions cannot be judged at {size}")
    return [ranks.normalised(rows, size) for rows in every]
