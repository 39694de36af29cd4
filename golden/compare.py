"""The comparison measures an artifact against goldens: token ids, and embeddings alone and in
padded batches.

It uses numpy only, with all arithmetic in f64. The gate decides on acceptable errors, not this
file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import numpy as np

from goldfold.golden import tokenwise
from goldfold.golden.batching import crowd_of, mixed_batches, tokens_of
from goldfold.golden.errors import GoldenError
from goldfold.golden.padding import batch_of
from goldfold.golden.store import CALLS, NAMED, Case, Goldens
from goldfold.golden.tasks import (
    EMBEDDING,
    MULTI,
    SCORES,
    SPARSE,
    gap_error,
    least_of,
    level,
    scale_of,
    strays,
)

Run = Callable[..., np.ndarray]
"""(ids int64 [B,S], mask int64 [B,S]) -> float32 [B,D], or [B,S,D] of a model that gives a vector
for each token; the mask is 1 on tokens, 0 on padding. A third argument names an output (`AFTER`)
for texts whose prompt is not pooled."""

AFTER = "sentence_embedding_after_"
"""The name of an output, before the number of leading tokens that it does not pool."""

Tokenize = Callable[[list[Any], str], list[list[int]]]
"""(texts, call) -> ids with specials, truncated as the artifact truncates, unpadded. The call is ""
for texts that have their prompt; else it is one of store.CALLS, or store.NAMED and the name of a
prompt, which the artifact adds. The inputs of `predict` are pairs."""

Progress = Callable[[str, int, int], None]
"""Called with (what ran, calls done, calls in all) after each call of the artifact."""


YOURS = "yours"
"""The kind of a user's own texts."""

RANKED = tokenwise.RANKED
"""The kind of the pairs whose first text is a query, and the second one of its documents."""


@dataclass(frozen=True, slots=True)
class TokenFault:
    """The first differing token of an artifact. The snippets hold up to four ids from there on."""

    id: str
    position: int
    expected: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """The difference between an embedding e and its golden g. A non-finite or zero e makes all
    three figures inf.

    `distance` is 1-cos, `norm_error` is | ||e||/||g|| - 1 |, `delta` is max |e_k - g_k|. Of scores,
    `distance` is max |e_k - g_k| on the goldens' scale (tasks.py), and `norm_error` is 0. Of sparse
    vectors, `strays` is the number of entries that are zero in one of e and g alone; of a CSR, both
    are first made level (tasks.py). Of token vectors, each figure is that of the worst token.
    """

    distance: float
    norm_error: float
    delta: float
    strays: int = 0

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.distance))


@dataclass(frozen=True, slots=True)
class TextRow:
    """One text, run alone, and run in padded batches: the worse reading of a batch of few long and
    short texts, and of a batch of many short ones."""

    id: str
    tokens: int
    alone: Reading
    padded: Reading


@dataclass(frozen=True, slots=True)
class Measurement:
    """All of an artifact's errors against the goldens of `model`, in the goldens' order.

    `dim` and `normalized` describe the compared goldens (after `dims` cut them). The similarity
    errors are the largest |e_i.e_j - g_i.g_j| over all pairs of normalised vectors.
    """

    model: str
    dim: int
    normalized: bool
    rows: tuple[TextRow, ...]
    similarity_alone: float
    similarity_padded: float
    pairs: tuple[tuple[float, float], ...] = ()
    """For plots: (g_i.g_j, e_i.e_j - g_i.g_j) of a drawn sample of pairs, texts run alone."""
    embeddings: Any = field(default=None, compare=False, repr=False)
    """f64 [N, dim] of the texts run alone, or a list of [tokens, dim]; not part of a record. None
    where nothing was kept."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text; 0 when nothing was measured."""
        return max((row.tokens for row in self.rows), default=0)

    @property
    def worst(self) -> float:
        """Largest 1-cos of a text run alone; inf when nothing was measured."""
        return max((row.alone.distance for row in self.rows), default=float("inf"))

    @property
    def worst_padded(self) -> float:
        """Largest 1-cos of a text in a padded batch; inf when nothing was measured."""
        return max((row.padded.distance for row in self.rows), default=float("inf"))

    @property
    def mean(self) -> float:
        """Mean 1-cos over all texts, alone."""
        return _mean([row.alone.distance for row in self.rows])

    @property
    def mean_padded(self) -> float:
        """Mean 1-cos over all texts, in padded batches."""
        return _mean([row.padded.distance for row in self.rows])

    @property
    def worst_id(self) -> str:
        """The text with the largest 1-cos, alone or padded; "" when nothing was measured."""
        ranked = self.ranked
        return ranked[0].id if ranked else ""

    @property
    def ranked(self) -> tuple[TextRow, ...]:
        """The rows from worst to best, by the larger of the two 1-cos."""
        return tuple(
            sorted(self.rows, key=lambda r: max(r.alone.distance, r.padded.distance), reverse=True)
        )

    def plain(self) -> dict[str, Any]:
        """All fields but the embeddings, as dicts and tuples; infinities stay."""
        summary = {
            "worst": self.worst,
            "worst_padded": self.worst_padded,
            "mean": self.mean,
            "mean_padded": self.mean_padded,
            "worst_id": self.worst_id,
        }
        record = asdict(replace(self, embeddings=None))
        del record["embeddings"]
        return {**record, **summary}


def summary(measurement: Measurement) -> dict[str, Any]:
    """`plain` without the entries per text and per pair."""
    record = measurement.plain()
    return {key: value for key, value in record.items() if key not in ("rows", "pairs")}


def token_faults(tokenize: Tokenize, goldens: Goldens) -> list[TokenFault]:
    """Tokenize every golden by its own call, and list those with different tokens. The first text
    is also tokenized under the name of every prompt, which must give the prompt's text."""
    found: dict[str, list[int]] = {}
    for call in ("", *CALLS):
        cases = [case for case in goldens.cases if case.call == call]
        texts = [case.input if call else case.prompt + case.text for case in cases]
        made = tokenize(texts, call) if texts else []
        if len(made) != len(cases):
            raise GoldenError(f"the tokenizer returned {len(made)} of {len(cases)} texts")
        found |= {case.id: ids for case, ids in zip(cases, made, strict=True)}
    wanted = {case.id: case.token_ids for case in goldens.cases}
    text = goldens.cases[0].text
    for name, prompt in goldens.prompts.items() if goldens.task != SCORES else ():
        (before,), (named,) = tokenize([prompt + text], ""), tokenize([text], f"{NAMED}{name}")
        wanted[f"{NAMED}{name}"], found[f"{NAMED}{name}"] = tuple(before), named
    faults = []
    for name, expected in wanted.items():
        got = tuple(int(i) for i in found[name])
        if expected == got:
            continue
        pairs = enumerate(zip(expected, got, strict=False))
        at = next((k for k, (a, b) in pairs if a != b), min(len(expected), len(got)))
        faults.append(TokenFault(name, at, expected[at : at + 4], got[at : at + 4]))
    return faults


def measure(
    run: Run,
    goldens: Goldens,
    *,
    pad_id: int = 0,
    progress: Progress | None = None,
    dims: int | None = None,
) -> Measurement:
    """Run every golden's stored token ids alone, then in padded batches, and compare.

    `dims` compares with the first `dims` components of the goldens (a Matryoshka head), normalised
    again if the model normalises. Raises GoldenError when `run` returns the wrong shape, or `dims`
    exceeds the goldens.
    """
    reference, read = reference_rows(goldens, dims), reading_for(goldens)
    cases, shape = goldens.cases, (dims or goldens.dim, goldens.task)
    lengths = [len(case.token_ids) for case in cases]
    room = tokens_of(goldens)
    batches = mixed_batches(lengths, most=room)
    many = crowd_of(lengths, room)
    total = len(cases) + len(batches) + bool(many)

    ran: dict[int, np.ndarray] = {}
    for row, case in enumerate(cases):
        (ran[row],) = call(run, [case], pad_id, *shape)
        if progress is not None:
            progress(case.id, row + 1, total)
    alone = _in_order(ran, goldens)
    for number, rows in enumerate(batches, start=1):
        ran |= zip(rows, call(run, [cases[r] for r in rows], pad_id, *shape), strict=True)
        if progress is not None:
            progress(f"padded batch {number}", len(cases) + number, total)
    padded = _in_order(ran, goldens)
    if many:  # more rows at once than any of the other batches has
        ran |= zip(many, call(run, [cases[r] for r in many], pad_id, *shape), strict=True)
        if progress is not None:
            progress(f"{len(many)} texts at once", total, total)
    crowd = _in_order(ran, goldens)

    return Measurement(
        model=goldens.model,
        dim=shape[0],
        normalized=goldens.normalized,
        rows=tuple(
            TextRow(c.id, len(c.token_ids), read(a, g), _worse(read(p, g), read(q, g)))
            for c, a, p, q, g in zip(goldens.cases, alone, padded, crowd, reference, strict=True)
        ),
        similarity_alone=_between(alone, reference, goldens),
        similarity_padded=max(_between(rows, reference, goldens) for rows in (padded, crowd)),
        pairs=sampled_pairs(alone, reference) if goldens.task == EMBEDDING else (),
        embeddings=alone,
    )


def _in_order(ran: Mapping[int, np.ndarray], goldens: Goldens) -> Any:
    rows = [ran[row] for row in range(len(goldens.cases))]
    return rows if goldens.task == MULTI else np.stack(rows)


def reference_rows(goldens: Goldens, dims: int | None = None) -> Any:
    """Returns the goldens, f64 [N, dims]: their first `dims` components, normalised again if the
    model normalises; of token vectors a list of [tokens, dims]. Raises GoldenError where `dims`
    exceeds the goldens."""
    if goldens.task == MULTI and dims in (None, goldens.dim):
        return [goldens.row(at).astype(np.float64) for at in range(len(goldens.cases))]
    reference = goldens.embeddings.astype(np.float64)
    if dims is None or dims == goldens.dim:
        return reference
    if not 0 < dims < goldens.dim or goldens.task == MULTI:
        raise GoldenError(f"goldens of {goldens.dim} dimensions cannot judge {dims}")
    reference = reference[:, :dims]
    return unit(reference) if goldens.normalized else reference


def reading(embedding: np.ndarray, golden: np.ndarray) -> Reading:
    """Compare e with g, both f64 [D].

    1-cos is computed as half the squared distance of the normalised vectors, which equals it over
    the reals: |a-b|^2 = 2 - 2 a.b. Subtracting the dot product from 1 instead would cancel, and
    leave f64's 1e-16 of noise where the distance itself is that small; a difference of vectors is
    exact to its last digits however close they are.
    """
    pair = np.stack([embedding, golden])
    # One call for both norms: equal vectors must give equal norms to the last bit.
    norm, reference = (float(n) for n in np.linalg.norm(pair, axis=1))
    if not np.isfinite(norm) or norm == 0.0:
        return Reading(float("inf"), float("inf"), float("inf"))
    apart = embedding / norm - golden / reference
    return Reading(
        distance=0.5 * float(apart @ apart),
        norm_error=abs(norm / reference - 1.0),
        delta=float(np.abs(embedding - golden).max()),
    )


def reading_for(goldens: Goldens) -> Callable[[np.ndarray, np.ndarray], Reading]:
    """Returns the comparison of one result with its golden, both f64 [D], or [S, D], for the
    goldens' task."""
    if goldens.task == MULTI:
        return lambda found, golden: Reading(*tokenwise.figures(found, golden))
    if goldens.task == SPARSE:
        least = least_of(goldens.embeddings, goldens.rounding)
        kept = goldens.units
        return lambda e, g: replace(reading(*level(e, g, kept)), strays=strays(e, g, least, kept))
    if goldens.task != SCORES:
        return reading
    scale = scale_of(goldens.embeddings)

    def scored(found: np.ndarray, golden: np.ndarray) -> Reading:
        if not np.isfinite(found).all():
            return Reading(float("inf"), float("inf"), float("inf"))
        delta = float(np.abs(found - golden).max(initial=0.0))
        return Reading(delta / scale, 0.0, delta)

    return scored


def rankings(goldens: Goldens) -> list[list[int]]:
    """Returns the rows of scores that rank documents for one query: those of each first text that
    stands in several pairs."""
    found: dict[str, list[int]] = {}
    for row, case in enumerate(goldens.cases):
        if case.kind in (RANKED, YOURS) and not case.private:
            found.setdefault(case.text, []).append(row)
    return [rows for rows in found.values() if len(rows) > 1]


def _between(found: Any, reference: Any, goldens: Goldens) -> float:
    if goldens.task == MULTI:
        return tokenwise.similarity_error(found, reference, goldens)
    if goldens.task == SCORES:
        return gap_error(found, reference, rankings(goldens), scale_of(goldens.embeddings))
    if goldens.units:
        pairs = [level(e, g, goldens.units) for e, g in zip(found, reference, strict=True)]
        found, reference = (np.stack(side) for side in zip(*pairs, strict=True))
    return similarity_error(found, reference)


def similarity_error(embeddings: np.ndarray, goldens: np.ndarray) -> float:
    """Largest |e_i.e_j - g_i.g_j| over all pairs of normalised rows; inf if any e is unusable."""
    norms = np.linalg.norm(embeddings, axis=1)
    if not np.isfinite(norms).all() or not norms.all():
        return float("inf")
    e, g = unit(embeddings), unit(goldens)
    return float(np.abs(e @ e.T - g @ g.T).max(initial=0.0))


def sampled_pairs(
    embeddings: np.ndarray, goldens: np.ndarray, most: int = 400
) -> tuple[tuple[float, float], ...]:
    """(g_i.g_j, e_i.e_j - g_i.g_j) of at most `most` pairs i < j, always the same ones.

    Figures are rounded to a plot's precision. Pairs with a row that is not finite, or zero, are
    left out.
    """
    usable = np.asarray(np.isfinite(embeddings).all(axis=1) & embeddings.any(axis=1))
    first, second = np.triu_indices(len(goldens), k=1)
    if len(first) > most:
        kept = np.sort(np.random.default_rng(0).choice(len(first), most, replace=False))
        first, second = first[kept], second[kept]
    kept = usable[first] & usable[second]
    first, second = first[kept], second[kept]
    g = unit(goldens)
    e = unit(np.where(usable[:, None], embeddings, 1.0))
    there = (g[first] * g[second]).sum(axis=1)
    apart = (e[first] * e[second]).sum(axis=1) - there
    return tuple((round(float(x), 5), float(f"{y:.2e}")) for x, y in zip(there, apart, strict=True))


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows of [N, D], divided by their norms."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def call(
    run: Run, cases: Sequence[Case], pad_id: int, dim: int, task: str = EMBEDDING
) -> list[np.ndarray]:
    """Run one right-padded batch; float64 [dim] a case, or [its tokens, dim]."""
    ids, mask = batch_of(cases, pad_id)
    if len(skips := {case.unpooled for case in cases}) > 1:  # an output for each prompt's length
        made = {n: call(run, [replace(c, unpooled=n) for c in cases], pad_id, dim) for n in skips}
        return [made[case.unpooled][row] for row, case in enumerate(cases)]
    out = np.asarray(run(ids, mask, *(f"{AFTER}{n}" for n in skips if n)))
    wanted = (*ids.shape, dim) if task == MULTI else (len(cases), dim)
    if out.shape != wanted:
        raise GoldenError(f"the artifact returned {out.shape} for {ids.shape} tokens, not {wanted}")
    if task == MULTI:
        return [rows[: len(c.token_ids)].astype(float) for rows, c in zip(out, cases, strict=True)]
    return list(out.astype(np.float64))


def _worse(one: Reading, other: Reading) -> Reading:
    return Reading(*map(max, astuple(one), astuple(other)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("inf")
