"""Drift: how far the vectors of one text lie apart on the two sides, by text and by kind of text,
and whether each still finds its own among all others.

1−cos is half the squared distance of unit vectors. Lengths are compared apart from it: an index
that ranks by inner product or by distance sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from goldfold.golden.judging import unseen

SAME = 1e-6
"""The 1-cos below which two texts count as one: their tokens are the same, and f32 rounds
otherwise in another batch."""

WORST = 20
"""Texts that a record names, the worst first."""
_SHOWN = 80
"""Characters of a text that a record repeats."""

_FEWEST = 3
"""Distinct texts of a kind from which its figure says something."""
_BLOCK = 256


@dataclass(frozen=True)
class KindDrift:
    """The drift of the texts of one kind."""

    kind: str
    texts: int
    worst: float
    mean: float
    distinct: int
    """Texts with a vector of their own in the index."""
    found: float
    """The share of these whose NEW vector is nearest to their own OLD vector."""

    @property
    def broken(self) -> bool:
        """Whether most texts of the kind no longer find their own vector."""
        return self.distinct >= _FEWEST and self.found < 0.5


@dataclass(frozen=True)
class TextDrift:
    """The drift of one text."""

    place: int
    """Of an index, the row of its vector."""
    kind: str
    distance: float
    text: str
    """Its beginning."""


@dataclass(frozen=True)
class Drift:
    """The drift of all texts; infinite where an embedding is not finite, or zero."""

    texts: int
    worst: float
    worst_text: int
    """The place of the worst text."""
    mean: float
    length: float
    """The largest |‖new‖/‖old‖ − 1|."""
    unusable: int
    """Texts that have an embedding that is not finite, or zero, on one side alone."""
    found: float
    """The share of distinct texts whose NEW vector is nearest to their own OLD vector."""
    distinct: int
    kinds: tuple[KindDrift, ...]
    """The worst first."""


def measure(old: np.ndarray, new: np.ndarray, kinds: Sequence[str]) -> tuple[Drift, np.ndarray]:
    """Returns the drift of the rows [N, D] of texts of these kinds, and the 1-cos of each, NaN
    where neither side has an embedding: those texts are left out."""
    both = np.stack([usable(old), usable(new)])
    apart = unseen.distances(new, old)
    apart = np.where(both.any(axis=0), apart, np.nan)
    kept = np.flatnonzero(both.any(axis=0))
    good = np.flatnonzero(both.all(axis=0))
    own = np.zeros(len(old), dtype=bool)
    own[good] = distinct(old[good])
    found = np.zeros(len(old))
    places = np.flatnonzero(own)
    found[places] = nearest(new[places], old[places]) == np.arange(len(places))
    lengths = np.linalg.norm(new[good].astype(np.float64), axis=1)
    lengths = np.abs(lengths / np.linalg.norm(old[good].astype(np.float64), axis=1) - 1)
    names = np.asarray(kinds)
    rows = []
    for kind in dict.fromkeys(kinds):
        where = np.flatnonzero((names == kind) & both.any(axis=0))
        if len(where):
            alone = where[own[where]]
            share = float(found[alone].mean()) if len(alone) else 1.0
            some = apart[where]
            rows.append(
                KindDrift(kind, len(where), float(some.max()), _mean(some), len(alone), share)
            )
    worst = int(kept[apart[kept].argmax()]) if len(kept) else 0
    return Drift(
        texts=len(kept),
        worst=float(apart[worst]) if len(kept) else 0.0,
        worst_text=worst,
        mean=_mean(apart[kept]),
        length=float(lengths.max(initial=0.0)),
        unusable=int((both.any(axis=0) & ~both.all(axis=0)).sum()),
        found=float(found[places].mean()) if len(places) else 1.0,
        distinct=len(places),
        kinds=tuple(sorted(rows, key=lambda one: (-one.worst, one.kind))),
    ), apart


def named(
    apart: np.ndarray, kinds: Sequence[str], texts: Sequence[str], places: np.ndarray | None = None
) -> tuple[TextDrift, ...]:
    """Returns the texts of the largest 1-cos [N], the worst first."""
    order = np.argsort(-np.where(np.isnan(apart), -1.0, apart), kind="stable")
    return tuple(
        TextDrift(
            int(at if places is None else places[at]),
            kinds[int(at)],
            float(apart[at]),
            texts[int(at)][:_SHOWN],
        )
        for at in order[:WORST]
        if not np.isnan(apart[at])
    )


def usable(rows: np.ndarray) -> np.ndarray:
    """Returns of each row of [N, D] whether it is finite and not zero."""
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    return np.isfinite(norms) & (norms > 0)


def distinct(rows: np.ndarray) -> np.ndarray:
    """Returns of each row [N, D] whether no row before it has its direction."""
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    kept = np.ones(len(rows), dtype=bool)
    for begin in range(0, len(rows), _BLOCK):
        block = unit[begin : begin + _BLOCK]
        near = block @ unit[: begin + len(block)].T >= 1 - SAME
        before = np.tri(len(block), begin + len(block), begin - 1, dtype=bool)
        kept[begin : begin + len(block)] = ~(near & before).any(axis=1)
    return kept


def nearest(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns for each row [N, D] the place of the row of [M, D] at the smallest angle, int64."""
    unit = others / np.linalg.norm(others.astype(np.float64), axis=1, keepdims=True)
    blocks = [
        (rows[begin : begin + _BLOCK] @ unit.T).argmax(axis=1)
        for begin in range(0, len(rows), _BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.int64)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
