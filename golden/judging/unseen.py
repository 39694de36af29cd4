"""Unseen texts: a large set that nothing else reads, on which an artifact's errors are counted.

The goldens are a hundred texts, chosen because they are hard. Unseen texts are drawn by chance, by
`drawn`, each alike and apart from the others, so that their figures say something of all texts that
could have been drawn: `figures` gives the percentile of 1-cos with an interval that holds for every
distribution (order_statistics.py). No golden, calibration, tuning or corpus text is among them.

    texts = drawn(1000, seed=0)
    found = figures(distances, [one.kind for one in texts])
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import gate_for
from goldfold.golden.judging import installed as installed_texts
from goldfold.golden.judging import unseen_kinds as makers
from goldfold.golden.judging.order_statistics import Percentile, percentile
from goldfold.golden.judging.scripts import parts
from goldfold.golden.reasons import Reason
from goldfold.golden.texts import authored
from goldfold.golden.token_texts import Draws

COUNT = 1_000
MOST = 10_000
"""The most texts that are drawn."""

_SHOWN = 40
"""Characters of a text that a sentence repeats."""
_NAMED = 3
"""Kinds that a sentence names."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """A text that nothing else reads. `kind` is `script:` and a writing system, one of
    kinds.KINDS, or one of what is installed: `docstrings`, `metadata`, `manual`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class KindFigures:
    """The 1-cos of the texts of one kind; infinite where an embedding is not finite."""

    kind: str
    texts: int
    worst: float
    mean: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The 1-cos over all texts; infinite where an embedding is not finite."""

    texts: int
    worst: float
    worst_kind: str
    worst_number: int
    """The place of the worst text, from 0."""
    mean: float
    percentile: Percentile
    kinds: tuple[KindFigures, ...]
    """By kind, the worst first."""


def drawn(count: int = COUNT, seed: int = 0) -> tuple[Unseen, ...]:
    """`count` texts, the same ones everywhere; fewer of a seed are the beginning of more.

    Each is drawn as every other is, its kind by chance as well, so a text may come twice. One that
    another set holds is drawn again. Raises GoldenError for a count that is not 1 … MOST.
    """
    _check(count)
    draws, found, held = Draws(seed), [], _held()
    while len(found) < count:
        kind, text = makers.text(draws)
        if _plain(text) not in held:
            found.append(Unseen(kind, text))
    return tuple(found)


def installed(count: int, seed: int = 0) -> tuple[Unseen, ...]:
    """At most `count` texts of what is installed (installed.py): other ones on another machine.
    Raises GoldenError for a count that is not 1 … MOST."""
    _check(count)
    return tuple(Unseen(*one) for one in installed_texts.texts(count, seed))


def digest(texts: Sequence[Unseen]) -> str:
    """sha256 of kinds and texts, in their order."""
    state = hashlib.sha256()
    for one in texts:
        raw = f"{one.kind}\0{one.text}".encode()
        state.update(len(raw).to_bytes(8, "little") + raw)
    return state.hexdigest()


def distances(embeddings: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1-cos of each row of [N, D] with its reference, f64 [N]; infinite where either is not finite,
    or zero. As compare.reading has it: half the squared distance of the normalised rows."""
    sides = [np.asarray(side, dtype=np.float64) for side in (embeddings, reference)]
    with np.errstate(all="ignore"):
        one, other = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
        found = 0.5 * ((one - other) ** 2).sum(axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def figures(distances: Sequence[float] | np.ndarray, kinds: Sequence[str]) -> Figures:
    """The figures of texts of these 1-cos and kinds, one each. What is no number counts as
    infinite. Raises GoldenError for no texts, and for other kinds than distances."""
    found = np.asarray(distances, dtype=np.float64)
    if found.shape != (len(kinds),) or not len(kinds):
        raise GoldenError(f"distances of shape {found.shape} are not those of {len(kinds)} texts")
    found = np.where(np.isfinite(found), found, np.inf)
    names = np.asarray(kinds)
    rows = [(kind, found[names == kind]) for kind in dict.fromkeys(kinds)]
    each = (KindFigures(kind, len(d), float(d.max()), float(d.mean())) for kind, d in rows)
    worst = int(found.argmax())
    return Figures(
        texts=len(found),
        worst=float(found[worst]),
        worst_kind=kinds[worst],
        worst_number=worst,
        mean=float(found.mean()),
        percentile=percentile(found.tolist()),
        kinds=tuple(sorted(each, key=lambda one: -one.worst)),
    )


def judge(found: Figures, precision: str) -> tuple[Reason, ...]:
    """The reasons why figures are over the limits of `precision`: the percentile over that of one
    text, or the mean over that of the mean. Raises GoldenError on an unknown precision."""
    gate, reasons = gate_for(precision), []
    top, count = found.percentile, f"{found.texts:,}"
    if not top.value <= gate.worst:
        kinds = _listed([one.kind for one in found.kinds if not one.worst <= gate.worst])
        note = (
            f"The {ordinal(top.share)} percentile of 1-cos over {count} unseen texts, in {kinds},"
        )
        reasons.append(_reason(precision, top.value, gate.worst, note))
    if gate.mean is not None and not found.mean <= gate.mean:
        note = f"The mean of 1-cos over {count} unseen texts"
        reasons.append(_reason(precision, found.mean, gate.mean, note))
    return tuple(reasons)


def named(one: Unseen, number: int) -> str:
    """A text in a sentence: its number, its kind and its beginning."""
    short = one.text if len(one.text) <= _SHOWN else f"{one.text[:_SHOWN]}…"
    return f"unseen text {number} ({one.kind}: {short!a})"


def ordinal(share: float) -> str:
    """A percentile's name: 99.9th."""
    return f"{100 * share:g}th"


def _listed(kinds: Sequence[str]) -> str:
    more = f" and {len(kinds) - _NAMED} kinds more" if len(kinds) > _NAMED else ""
    return ", ".join(kinds[:_NAMED]) + more


def _reason(precision: str, value: float, limit: float, note: str) -> Reason:
    finite = value if math.isfinite(value) else None
    return Reason("unseen", precision, value=finite, limit=limit, note=note)


def _check(count: int) -> None:
    if not 1 <= count <= MOST:
        raise GoldenError(f"{count} unseen texts cannot be drawn; 1 to {MOST:,} can")


@cache
def _held() -> frozenset[str]:
    return frozenset(parts("elsewhere")) | {_plain(one.text) for one in authored()}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
