"""`compat`: may the queries of NEW search the index of OLD?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter.artifact.runnable import is_whole
from goldfold.exporter.errors import UsageError
from goldfold.exporter.index import causes, contracts, drift, engines, mixed, vectors
from goldfold.exporter.index.sides import UNKNOWN, Side, at, open_side
from goldfold.exporter.index.texts import Sets, of_texts, read, standard
from goldfold.exporter.index.verdict import LOSS, Compatibility, Found, judge, rounding
from goldfold.exporter.progress import Listener, Stages
from goldfold.golden.judging import unseen
from goldfold.golden.judging.unseen import COUNT

FEWEST = 20
"""The least texts, or pairs, that say something."""
PAIRS = 1000
"""Docstrings and functions, where no texts are given."""


@dataclass(frozen=True)
class How:
    """How much is compared, and who hears of it."""

    pairs: int = PAIRS
    """Docstrings and functions to retrieve, where no texts are given."""
    drawn: int = COUNT
    """Unseen texts of many scripts, where no texts are given; otherwise the most of the given ones,
    or of an index's vectors, that are compared: a sample, the same one each time."""
    threads: int | None = None
    listener: Listener | None = None


def compat(
    old: str | Path | None,
    new: str | Path,
    *,
    texts: Sequence[str] | str | Path | None = None,
    index: np.ndarray | str | Path | None = None,
    dims: int | None = None,
    limit: float = LOSS,
    how: How = How(),
) -> Compatibility:
    """Compare two artifacts, or an index's own vectors with an artifact: may the queries of `new`
    search the index of `old`?

    Args:
        old: the artifact that made the index; None where `index` holds its vectors.
        new: the artifact that is to search it.
        texts: the texts to compare on, or a file with one a line (`.jsonl`: strings, or objects
            with a `text`); by default docstrings with their functions, and drawn texts of many
            scripts. With `index`, the text of each of its vectors.
        index: the vectors of an index, float [N, D], or a .npy file.
        dims: the size of the index where it is smaller than `old` gives.
        limit: the share of nDCG@10 that `compatible with loss` may lose.
        how: how much is compared.

    Raises:
        UsageError: artifacts that give no embeddings, sizes that cannot be mixed, vectors and texts
            of other counts, texts without text, too few texts.
        ArtifactError: a damaged folder, or one that missed its gate.
    """
    _check(dims, limit, how)
    if (old is None) == (index is None):
        raise UsageError("give two artifacts, or one and the --index that it is to search")
    if index is not None and texts is None:
        raise UsageError("--index needs --texts: the text of each of its vectors")
    given = None if texts is None else _given(texts)
    stages = Stages(how.listener)
    if old is None:
        rows = vectors.opened(index, given)
        with stages("open"):
            side = open_side(Path(new), how.threads)
        return of_index(side, rows, given or [], Asked(dims, limit, how), stages)
    with stages("open"):
        sides = [open_side(Path(folder), how.threads) for folder in (old, new)]
    size = contracts.size(sides[0], sides[1], dims)
    with stages("texts"):
        longest = max(side.contract.max_length for side in sides)
        if given is None:
            sets = standard(how.pairs, how.drawn, longest)
        else:
            sets = of_texts([given[int(place)] for place in _sample(len(given), how.drawn)])
        stages.note(sets.source)
    found = compare(at(sides[0], size), at(sides[1], size), sets, stages, limit)
    return replace(found, mixable=contracts.mixable(sides[0], sides[1], size))


@dataclass(frozen=True)
class Asked:
    """What was asked of a comparison with an index."""

    dims: int | None = None
    limit: float = LOSS
    how: How = How()


def compare(old: Side, new: Side, sets: Sets, stages: Stages, limit: float = LOSS) -> Compatibility:
    """Compare two sides of one size on the texts of `sets`."""
    found: list[dict[str, np.ndarray]] = []
    for side in (old, new):
        with stages(f"embed by {Path(side.name).name}"):
            rows = {"queries": side.rows(sets.queries, "query", stages)}
            rows["documents"] = side.rows(sets.documents, "document", stages)
            same = sets.texts == sets.documents
            rows["texts"] = rows["documents"] if same else side.rows(sets.texts, "document", stages)
            found.append(rows)
    with stages("compare"):
        queries, documents, texts = (
            (found[0][part], found[1][part]) for part in ("queries", "documents", "texts")
        )
        kinds, every = sets.kinds, sets.texts
        if sets.texts != sets.documents:
            every = (*sets.texts, *sets.documents, *sets.queries)
            texts = tuple(np.concatenate(s) for s in zip(texts, documents, queries, strict=True))
            more = ("documents",) * len(documents[0]) + ("queries",) * len(queries[0])
            kinds = (*kinds, *more)
        measured, apart = drift.measure(texts[0], texts[1], kinds)
        allowed = rounding(old.limit, new.limit)
        said = contracts.differences(old, new)
        good = np.flatnonzero(
            np.all([drift.usable(side) for side in (*queries, *documents)], axis=0)
        )
        good = good[
            drift.distinct(documents[0][good])
        ]  # others tie, and noise would break the ties
        queries, documents = (tuple(side[good] for side in both) for both in (queries, documents))
        retrieval, indexes, missing = _retrieved(queries, documents, old, stages)
        made = Found(
            measured, retrieval, said, allowed, limit,
            old.contract.normalized and new.contract.normalized, old.contract.similarity,
            old.fingerprint == new.fingerprint, indexes,
        )  # fmt: skip
        verdict, reasons = judge(made)
        why = tuple(causes.of_rows(texts[0], texts[1], allowed))
    return Compatibility(
        verdict, reasons, said, why if measured.worst > allowed else (), old.name, new.name,
        old.contract.dim, contracts.mixable(old, new, old.contract.dim), measured,
        drift.named(apart, kinds, every), allowed, retrieval, indexes, limit,
        sets.source, (*old.notes, *new.notes, *missing, *_left_out(apart)),
    )  # fmt: skip


def of_index(
    new: Side, rows: np.ndarray, texts: Sequence[str], asked: Asked, stages: Stages
) -> Compatibility:
    """Compare the vectors [N, D] of an index with those of `new` for the same texts: as documents,
    and asked by the beginning of each text."""
    size = contracts.size(new, new, asked.dims, rows.shape[1])
    whole, new = new.contract.dim, at(new, size)
    count, most = len(rows), asked.how.drawn
    some = _sample(count, most)
    sets = of_texts([texts[int(row)] for row in some])
    old_rows = np.asarray(rows[some], dtype=np.float32)
    with stages(f"embed by {Path(new.name).name}"):
        queries = new.rows(sets.queries, "query", stages)
        documents = new.rows(sets.documents, "document", stages)
    with stages("compare"):
        measured, apart = drift.measure(old_rows, documents, sets.kinds)
        allowed = rounding(UNKNOWN, new.limit)
        usable = [drift.usable(side) for side in (queries, documents, old_rows)]
        good = np.flatnonzero(np.all(usable, axis=0))
        good = good[drift.distinct(documents[good])]
        name = new.contract.similarity
        retrieval: tuple[Any, ...] = ()
        if len(good):
            base = mixed.scores(queries[good], documents[good], name)
            held = mixed.scores(queries[good], old_rows[good], name)
            retrieval = (mixed.metric(mixed.FORWARD, base, held, (old_rows,)),)
        verdict, reasons = judge(
            Found(
                measured, retrieval, (), allowed, asked.limit, new.contract.normalized, name, True
            )
        )
        if broken := vectors.unusable(rows):
            said = f"{broken} of {count} vectors are not finite, or zero"
            verdict, reasons = "not compatible", (said, *reasons)
        why = list(causes.of_rows(old_rows, documents, allowed))
        if measured.worst > allowed:
            why += causes.of_prompts(new, sets.documents, old_rows, allowed)
    sampled: tuple[str, ...] = ()
    if count > most:
        sampled = (
            f"{most} of {count} vectors were compared: where none is wrong, at most "
            f"{3 / most:.1%} of all are, with 95 %",
        )
    return Compatibility(
        verdict, reasons, (), tuple(why), "the index", new.name, size,
        f"the index has {size} of {whole} dimensions", measured,
        drift.named(apart, sets.kinds, sets.texts, some), allowed, retrieval, (), asked.limit,
        sets.source, (*new.notes, *sampled, *_left_out(apart)),
    )  # fmt: skip


def _retrieved(
    queries: tuple[np.ndarray, ...], documents: tuple[np.ndarray, ...], old: Side, stages: Stages
) -> tuple[Any, Any, tuple[str, ...]]:
    if not len(queries[0]):
        return (), (), ("no query and document have an embedding on both sides",)
    name = old.contract.similarity
    asking, asked = (queries[0], queries[1]), (documents[0], documents[1])
    retrieval = mixed.losses(asking, asked, name)
    stages.detail("indexes")
    indexes, missing = engines.losses(asking, documents[0], name)
    return retrieval, indexes, missing


def _sample(count: int, most: int) -> np.ndarray:
    """Returns the places of at most `most` of `count` things, the same ones each time, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


def _left_out(apart: np.ndarray) -> Iterable[str]:
    if lost := int(np.isnan(apart).sum()):
        yield f"{lost} texts have no embedding on either side and were left out"


def _given(texts: Sequence[str] | str | Path) -> list[str]:
    found = read(Path(texts)) if isinstance(texts, (str, Path)) else list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"text {place} holds no text")
    if len(found) < FEWEST:
        raise UsageError(f"{len(found)} texts say nothing; give {FEWEST} or more")
    return found


def _check(dims: int | None, limit: float, how: How) -> None:
    if dims is not None and (not is_whole(dims) or dims < 1):
        raise UsageError(f"--dims is {dims!r}; it must be a whole number from 1")
    if not 0 <= limit < 1:
        raise UsageError(f"--limit is {limit!r}; it is a share from 0 to below 1")
    if how.pairs < FEWEST:
        raise UsageError(f"--pairs is {how.pairs}; fewer than {FEWEST} say nothing")
    if not FEWEST <= how.drawn <= unseen.MOST:
        raise UsageError(f"--count is {how.drawn}; it takes {FEWEST} to {unseen.MOST:,}")
