"""The ways in which a runtime is called: batches of several sizes, every row of them, threads.

`compare.measure` runs each text alone, in batches of few rows and in one crowd. Here the same
goldens are run in the batches that a graph, a kernel or a pool of requests may treat differently,
and each row is compared with its golden under the same limits (gate.py): a graph that is wrong in
one row, whichever, is wrong for the text in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from goldfold.golden.batching import tokens_of
from goldfold.golden.compare import (
    Progress,
    Reading,
    Run,
    call,
    reading_for,
    reference_rows,
)
from goldfold.golden.gate import limits
from goldfold.golden.reasons import Reason
from goldfold.golden.store import Goldens

SIZES = (2, 7, 32, 33)
"""Rows of a batch, beside 1: the fewest, an odd number, the default of `embed`, and one more."""
FURTHER = (3, 4, 5, 6, 8)
"""Rows of further batches, of one short text, which cost next to nothing: a graph may be wrong at
one size alone."""
THREADS = 4
"""Callers at a time: more than the cores of a small machine."""
_ROUNDS = 6
"""Texts that each thread embeds, one after the other."""
_SOME = 5
"""Tokens of the text that stands at every row: enough for attention to have something to do."""
_SHORT = 48
"""Tokens of the longest text in a batch of many rows, each of which costs as much as that text."""
_LONG = 300
"""Tokens of the longest text in a batch of few rows: longer than EmbeddingGemma's window."""
_LONGER = 128
"""Tokens of the longest text in a batch of seven rows."""


@dataclass(frozen=True, slots=True)
class Called:
    """One row of one call."""

    text: str
    """The golden text in the row."""
    way: str
    """The call and the row, in words."""
    reading: Reading


@dataclass(frozen=True, slots=True)
class Ways:
    """All rows of all calls, against goldens of `dim` components."""

    rows: tuple[Called, ...]
    dim: int
    normalized: bool
    task: str
    rounding: float

    @property
    def worst(self) -> float:
        """Largest 1-cos of a row; 0 if there was none."""
        return max((row.reading.distance for row in self.rows), default=0.0)


def measure(
    run: Run,
    goldens: Goldens,
    *,
    pad_id: int = 0,
    dims: int | None = None,
    threads: int = THREADS,
    progress: Progress | None = None,
) -> Ways:
    """Run goldens in every way and compare each row with its golden.

    `dims` is as in compare.measure. With `threads`, so many callers at a time embed texts alone;
    0 leaves that out. Raises GoldenError when `run` returns the wrong shape.
    """
    reference, reading = reference_rows(goldens, dims), reading_for(goldens)
    cases, shape = goldens.cases, (dims or goldens.dim, goldens.task)
    sequences = [case.token_ids for case in cases]
    plan = list(batches([len(ids) for ids in sequences], tokens_of(goldens)))
    total = len(plan) + bool(threads)
    found: list[Called] = []
    for done, (name, rows) in enumerate(plan, start=1):
        made = call(run, [cases[row] for row in rows], pad_id, *shape)
        for place, (row, embedding) in enumerate(zip(rows, made, strict=True)):
            way = f"row {place} of {name}"
            found.append(Called(goldens.cases[row].id, way, reading(embedding, reference[row])))
        if progress is not None:
            progress(name, done, total)
    if threads:
        order = _threaded(sequences, threads)

        def one(row: int) -> Called:
            (embedding,) = call(run, [cases[row]], pad_id, *shape)
            way = f"alone, in {threads} threads"
            return Called(goldens.cases[row].id, way, reading(embedding, reference[row]))

        with ThreadPoolExecutor(threads) as pool:
            found += pool.map(one, order)
        if progress is not None:
            progress(f"{threads} threads", total, total)
    return Ways(tuple(found), shape[0], goldens.normalized, goldens.task, goldens.rounding)


def batches(
    lengths: Sequence[int], tokens: int | None = None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the batches, each with its name, as indices of texts of these lengths. `tokens` bounds
    those of a batch, where there are texts as short as that.

    Each size comes twice: once with a short text at every row, and once with texts of mixed
    lengths, the longest of them first or last. There are as many rows as the size says, so that
    texts repeat where there are few.
    """
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    if not order:
        return
    few = [row for row in order if lengths[row] <= _SHORT] or order[:1]
    equal = next((row for row in few if lengths[row] >= _SOME), few[-1])
    for size in sorted((*SIZES, *FURTHER)):
        yield f"{size} equal rows", (equal,) * size
    for size in SIZES:
        most = {2: _LONG, 7: _LONGER}.get(size, _SHORT)
        most = most if tokens is None else min(most, tokens // size)
        fitting = [row for row in order if lengths[row] <= most] or order[:1]
        # The longest, and the shortest of the others: a batch costs its longest text per row.
        longest, rest = fitting[-1], fitting[:-1] or fitting
        others = [rest[place % len(rest)] for place in range(size - 1)]
        if size == 7:  # long rows as well: every second one
            long = rest[-(size // 2) :]
            others[1::2] = [long[place % len(long)] for place in range(len(others[1::2]))]
        mixed = (longest, *others) if size % 2 == 0 else (*others, longest)
        yield f"{size} mixed rows", mixed


def _threaded(sequences: Sequence[Sequence[int]], threads: int) -> list[int]:
    """Returns the texts that threads embed, in turn: the shortest ones, of unlike lengths."""
    order = sorted(range(len(sequences)), key=lambda row: (len(sequences[row]), row))
    some = order[: threads * _ROUNDS // 2] or order
    return [some[(7 * place) % len(some)] for place in range(threads * _ROUNDS)]


def judge(ways: Ways, precision: str) -> tuple[Reason, ...]:
    """Returns the reasons why a row is over the limits of `precision`: the worst of each call.

    Raises GoldenError on an unknown precision.
    """
    gate = limits(precision, ways)
    limit = gate.norm(ways.dim, ways.normalized)
    worst: dict[str, tuple[float, Reason]] = {}
    for row in ways.rows:
        found, reason = row.reading, None
        if not found.finite:
            reason = Reason("unusable", precision, row.text, row.way)
        elif not found.distance <= gate.worst:
            reason = Reason(gate.kind, precision, row.text, row.way, found.distance, gate.worst)
        elif gate.nonzeros and found.strays:
            reason = Reason("nonzeros", precision, row.text, row.way, found.strays, 0)
        elif not found.norm_error <= limit:
            reason = Reason("norm", precision, row.text, row.way, found.norm_error, limit)
        if reason is None:
            continue
        name = row.way.rpartition(" of ")[2]
        if name not in worst or found.distance > worst[name][0]:
            worst[name] = (found.distance, reason)
    return tuple(reason for _, reason in worst.values())
