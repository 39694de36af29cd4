"""The gate sets the errors that an artifact may show and still count as built.

One number per precision is chosen, the largest 1-cos of any text; every other limit follows from
that number or from the arithmetic, by the sentence beside it.

The choice of the numbers: a relative error r across an embedding turns it by an angle of about r,
and 1-cos = r^2/2. Each limit leaves a correct build room (the worst text of EmbeddingGemma-300M, up
to 2,048 tokens):

- fp32, 1e-8:  r = 1.4e-4; torch against itself, padded, shows 2e-12, ONNX Runtime 8e-12,
  OpenVINO 6e-11. A hundred times tighter than the 1e-6 that users are promised, so that the
  smallest bug below cannot hide.
- fp16, 2e-5:  r = 6.3e-3, 13 roundings of 2^-11; a correct build shows 5.9e-6.
- bf16, 2e-4:  r = 2.0e-2, 5 roundings of 2^-8; a correct build shows 7.9e-5.

Integers round so coarsely that the mean is bounded, too. Their limits are the promises to users,
as cosines: weights of 8 bits 0.999 at worst and 0.9997 on average; rounded activations 0.995 and
0.999; weights of 4 bits 0.98 and 0.99; "small", a table of 4 bits, 0.96 and 0.98.

The retrieval loss of integers is bounded as well: `loss` is the share of fp32's retrieval nDCG@10
that may be lost. The limits are the promises to users, 0.3 %, 0.5 % and 1.5 %, compared with the
upper end of a paired bootstrap's 95 % interval over 3,000 queries, at the embedding's own size and
at 256. "small" has no promise. The Lee corpus and rank agreement are measured beside it and bound
nothing: 50 texts leave an interval wider than these limits (docs/judging.md has its width), and how
much agreement users would miss has not been measured.

The cost of bugs in floating point (worst text): a norm's eps not rescaled, 4e-2; no sliding window,
4e-2; a window one token too narrow or too wide, 8e-5 and 1e-4; exact instead of tanh GELU, 7e-7
over 40 short texts. So fp32 detects them all, but a window off by one passes in bf16, and the wrong
GELU in both halves: fp32 and the passes' own tests must find wrong passes, and half precision's
gates judge rounding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np

from goldfold.golden import tokenwise
from goldfold.golden.compare import Measurement, TokenFault, rankings, reference_rows
from goldfold.golden.errors import GoldenError
from goldfold.golden.metrics import RETRIEVAL, Metric
from goldfold.golden.reasons import Reason
from goldfold.golden.store import Goldens
from goldfold.golden.tasks import (
    EMBEDDING,
    MULTI,
    ROUNDINGS,
    SCORES,
    SPARSE,
    ndcg,
    scale_of,
    turned,
)


@dataclass(frozen=True, slots=True)
class Gate:
    """The limits of one precision. `worst` bounds the 1-cos of every text, alone and padded."""

    worst: float
    mean: float | None = None
    """Bounds the mean of 1-cos over all texts as well, where rounding is coarse and one text alone
    shows little."""
    loss: float | None = None
    """Bounds the share of fp32's nDCG@10 that retrieval loses, as the upper end of its 95 %
    interval; None where there is no promise."""
    order: float | None = None
    """Of scores, and of MaxSim: the least nDCG@10 of a query's documents, ranked by the artifact,
    with fp32's scores as gains. None bounds none: `worst` then decides which documents may change
    places."""
    nonzeros: bool = False
    """Of sparse vectors: whether the same entries must be non-zero. Coarser rounding than f32's
    moves weights near zero across it."""
    kind: Literal["distance", "score"] = "distance"
    """The kind of the reasons that name `worst`."""

    @property
    def similarity(self) -> float:
        """Bound on |e_i.e_j - g_i.g_j| for unit vectors.

        |e-g| = sqrt(2 d) for 1-cos d, and by the triangle inequality
        |e_i.e_j - g_i.g_j| <= |e_i - g_i| |e_j| + |g_i| |e_j - g_j| = 2 sqrt(2 d).
        The bound follows from `worst`; checking it all the same guards the measurement. Of scores
        it bounds the error of a difference between two logits, at most the sum of their errors.
        """
        if self.kind == "score":
            return 2.0 * self.worst
        return 2.0 * math.sqrt(2.0 * self.worst)

    def norm(self, dim: int, normalized: bool) -> float:
        """Bound on | ||e||/||g|| - 1 | for embeddings of `dim` components.

        Normalised: both sides were divided by a norm computed in f32, whatever the precision of
        the layers before, since a head that normalises in half precision no longer returns unit
        vectors. With u = 2^-24, a sum of D squares is off by at most D u relative, its root by
        half of that, and the root's own rounding and the division add u each: (D/2 + 2) u a side,
        twice that for the quotient.

        Not normalised: an error of the size that `worst` allows across the embedding, relative
        |e-g| = sqrt(2 d), is allowed along it as well.
        """
        if normalized:
            return (dim / 2 + 2) * 2.0**-23
        return math.sqrt(2.0 * self.worst)


GATES: dict[str, Gate] = {
    "fp32": Gate(worst=1e-8),
    "fp16": Gate(worst=2e-5),
    "bf16": Gate(worst=2e-4),
    "int8-weights": Gate(worst=1e-3, mean=3e-4, loss=0.003),
    "int8": Gate(worst=5e-3, mean=1e-3, loss=0.005),
    "int4": Gate(worst=2e-2, mean=1e-2, loss=0.015),
    "small": Gate(worst=4e-2, mean=2e-2),
}


SCORE_GATES: dict[str, Gate] = {
    "fp32": Gate(worst=1e-6, kind="score"),
    "fp16": Gate(worst=1e-2, order=0.999, kind="score"),
    "bf16": Gate(worst=5e-2, order=0.99, kind="score"),
    "int8-weights": Gate(worst=0.1, order=0.99, kind="score"),
    "int8": Gate(worst=0.3, order=0.97, kind="score"),
    "int4": Gate(worst=0.6, order=0.95, kind="score"),
    "small": Gate(worst=1.0, order=0.9, kind="score"),
}
"""The limits of scores. fp32's is the rounding of a logit of f32 after a dozen layers; those below
are chosen so that the order of documents holds, which users feel, and a logit does not jump."""

SPARSE_GATES: dict[str, Gate] = {
    name: replace(gate, loss=None, nonzeros=name == "fp32") for name, gate in GATES.items()
}
"""The limits of sparse vectors are an embedding's, for their cosine means the same; there is no
promise of retrieval, which is not judged. fp32 keeps each weight that is larger than its rounding
(golden/tasks.py, `least_of`)."""


TOKEN_GATES: dict[str, Gate] = {
    name: replace(gate, mean=None, loss=None, order=SCORE_GATES[name].order)
    for name, gate in GATES.items()
}
"""The limits of models that give a vector for each token: those of embeddings, for every token."""
BY_TASK = {
    EMBEDDING: GATES,
    SCORES: SCORE_GATES,
    SPARSE: SPARSE_GATES,
    MULTI: TOKEN_GATES,
}


Status = Literal["passed", "proved", "failed"]
WORDS: dict[Status, str] = {"passed": "PASS", "proved": "PROVED", "failed": "FAIL"}
"""The word for each status, in tables and reports."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One of three: *passed*, the very file ran on this machine in its precision; *proved*, what
    stands for it ran and held the gate; *failed*, with every reason, the gravest first."""

    reasons: tuple[Reason, ...] = ()
    stand_in: str = ""
    """What ran in place of the file in its precision, in words; "" where nothing stood in."""
    not_run: str = ""
    """Why the file did not run on its device in its precision; "" where it did."""

    @property
    def passed(self) -> bool:
        """Whether the gate holds, for the file itself or for its stand-in."""
        return not self.reasons

    @property
    def status(self) -> Status:
        if self.reasons:
            return "failed"
        return "proved" if self.stand_in else "passed"

    @property
    def word(self) -> str:
        """The status as one word for a table."""
        return WORDS[self.status]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The reasons in words."""
        return tuple(reason.sentence for reason in self.reasons)

    def also(self, *reasons: Reason, **changes: Any) -> Verdict:
        """The verdict with further reasons, each with `changes` of its fields."""
        further = (replace(reason, **changes) for reason in reasons)
        return replace(self, reasons=(*self.reasons, *further))


def gate_for(precision: str, task: str = EMBEDDING) -> Gate:
    """The gate of `precision` for a task. Raises GoldenError for one that has none."""
    gates = BY_TASK[task]
    if precision not in gates:
        raise GoldenError(f"no gate for precision {precision!r}; known: {', '.join(gates)}")
    return gates[precision]


class Compared(Protocol):
    """What is compared: goldens, or a measurement against them (golden/store.py says what each
    is)."""

    @property
    def task(self) -> str: ...
    @property
    def rounding(self) -> float: ...


def limits(precision: str, compared: Compared) -> Gate:
    """The gate of `precision` for what was compared. Raises GoldenError for one that has none.

    A logit of a deep model is off by more than 1e-6 in any f32, the reference's own included: its
    limit is then so many times the reference's rounding (tasks.ROUNDINGS), which its goldens state.
    """
    gate = gate_for(precision, compared.task)
    if compared.task != SCORES:
        return gate
    return replace(gate, worst=max(gate.worst, ROUNDINGS * compared.rounding))


def judge(
    measurement: Measurement,
    token_faults: Sequence[TokenFault],
    precision: str,
    goldens: Goldens,
) -> Verdict:
    """Compare a measurement with the gate of `precision`. Raises GoldenError on an unknown one."""
    gate = limits(precision, goldens)
    reasons = (
        *_coverage(measurement, goldens),
        *_tokens(token_faults),
        *_means(measurement, gate, precision),
        *_texts(measurement, gate, precision),
        *_similarities(measurement, gate, precision),
        *_order(measurement, gate, precision, goldens),
    )
    return Verdict(reasons)


def judge_losses(metrics: Iterable[Metric], precision: str) -> tuple[Reason, ...]:
    """The reasons why a judgement (golden/judging/) is over the limit of `precision`, one per size.

    Empty where the precision has no limit; where it has one, a judgement without retrieval fails
    it. Raises GoldenError on an unknown precision.
    """
    limit = gate_for(precision).loss
    if limit is None:
        return ()
    found = [metric for metric in metrics if metric.name == RETRIEVAL]
    if not found:
        note = f"Retrieval was not judged, which the {precision} limit of {limit:.2%} asks for."
        return (Reason("retrieval", precision, limit=limit, note=note),)
    reasons = []
    for one in found:
        if not one.reference > 0:
            note = f"fp32 itself finds nothing at {one.dims} dims: nothing can be judged."
            reasons.append(Reason("retrieval", precision, limit=limit, note=note))
        elif one.upper is None or not one.upper <= limit:
            lost = "an unknown share" if _finite(one.upper) is None else f"up to {one.upper:.2%}"
            note = (
                f"Retrieval at {one.dims} dims loses {lost} of fp32's nDCG@10,"
                f" over the {precision} limit of {limit:.2%}."
            )
            reasons.append(
                Reason("retrieval", precision, value=_finite(one.upper), limit=limit, note=note)
            )
    return tuple(reasons)


def counts(counted: tokenwise.Counted, goldens: Goldens) -> tuple[Reason, ...]:
    """The reasons why other tokens of a golden text take part in scores than in the reference.
    `counted` gives the places of those that do, for token ids and a call."""
    faults = tokenwise.count_faults(counted, goldens)
    return tuple(Reason("tokens", text=text, note=note) for text, note in faults)


def _coverage(measurement: Measurement, goldens: Goldens) -> Iterator[Reason]:
    return (Reason("goldens", note=note) for note in _uncovered(measurement, goldens))


def _uncovered(measurement: Measurement, goldens: Goldens) -> Iterator[str]:
    if measurement.model != goldens.model:
        yield f"The measurement is of {measurement.model}, the goldens are of {goldens.model}."
    if not measurement.rows:
        yield "Nothing was measured."
        return
    measured = Counter(row.id for row in measurement.rows)
    wanted = Counter(case.id for case in goldens.cases)
    if missing := sorted((wanted - measured).elements()):
        yield f"{len(missing)} golden texts were not measured, among them {missing[0]}."
    if extra := sorted((measured - wanted).elements()):
        yield f"{len(extra)} measured texts are no goldens, or doubled, among them {extra[0]}."


def _tokens(faults: Sequence[TokenFault]) -> Iterator[Reason]:
    for fault in faults:
        note = f"from position {fault.position} on"
        if fault.expected != fault.found:  # of a private text neither is told
            note += f": expected {_ids(fault.expected)}, found {_ids(fault.found)}"
        yield Reason("tokens", text=fault.id, note=note)


def _texts(measurement: Measurement, gate: Gate, precision: str) -> Iterator[Reason]:
    limit = gate.norm(measurement.dim, measurement.normalized)
    for row in measurement.ranked:
        for way, reading in (("alone", row.alone), ("padded", row.padded)):
            if not reading.finite:
                yield Reason("unusable", precision, row.id, way)
                continue
            # Written as "not <=", so that a NaN that slipped through fails too.
            if not reading.distance <= gate.worst:
                yield Reason(gate.kind, precision, row.id, way, reading.distance, gate.worst)
            if gate.nonzeros and reading.strays:
                yield Reason("nonzeros", precision, row.id, way, reading.strays, 0)
            if not reading.norm_error <= limit:
                yield Reason("norm", precision, row.id, way, reading.norm_error, limit)


def _means(measurement: Measurement, gate: Gate, precision: str) -> Iterator[Reason]:
    if gate.mean is None or not measurement.rows:
        return
    for way, mean in (("alone", measurement.mean), ("padded", measurement.mean_padded)):
        if not mean <= gate.mean:
            yield Reason("mean", precision, way=way, value=_finite(mean), limit=gate.mean)


def _similarities(measurement: Measurement, gate: Gate, precision: str) -> Iterator[Reason]:
    ways = (("alone", measurement.similarity_alone), ("padded", measurement.similarity_padded))
    limit = gate.similarity
    for way, error in ways:
        if not error <= limit:
            yield Reason("similarity", precision, way=way, value=_finite(error), limit=limit)


def _order(
    measurement: Measurement, gate: Gate, precision: str, goldens: Goldens
) -> Iterator[Reason]:
    """Documents that change places although fp32 scores them further apart than two errors, and
    queries whose order loses more than the gate allows."""
    found = measurement.embeddings
    if goldens.task == EMBEDDING or found is None or len(found) != len(goldens.cases):
        return
    if goldens.task == MULTI:
        gap, ranked = 2 * gate.similarity, _by_maxsim(found, goldens)
    else:
        gap = 2 * gate.worst * scale_of(goldens.embeddings)
        ranked = _by_label(found, goldens)
    for query, ids, e, g in ranked:
        if (pair := next(turned(e, g, gap), None)) is not None:
            one, other = (ids[at] for at in pair)
            note = f"{other} is ranked before {one}, which fp32 ranks first for {query[:40]!r}."
            yield Reason("order", precision, text=one, note=note)
        elif gate.order is not None and not (kept := ndcg(e, g)) >= gate.order:
            note = (
                f"The order of the documents for {query[:40]!r} keeps nDCG@10 {kept:.4f} of"
                f" fp32's, under the {precision} limit of {gate.order}."
            )
            yield Reason("order", precision, value=kept, limit=gate.order, note=note)


_Ranked = tuple[str, list[str], np.ndarray, np.ndarray]
"""A query, the ids of its documents, and their scores in an artifact and in fp32."""


def _by_label(found: np.ndarray, goldens: Goldens) -> Iterator[_Ranked]:
    golden = goldens.embeddings.astype(float)
    for rows in rankings(goldens):
        ids = [goldens.cases[row].id for row in rows]
        for label in range(golden.shape[1]):
            yield goldens.cases[rows[0]].text, ids, found[rows, label], golden[rows, label]


def _by_maxsim(found: Sequence[np.ndarray], goldens: Goldens) -> Iterator[_Ranked]:
    return tokenwise.rankings(found, reference_rows(goldens), goldens)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ids(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids)) or "the end"
