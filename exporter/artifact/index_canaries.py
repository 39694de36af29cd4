"""Canaries in an index: a few texts that a service keeps in its index beside its own, to ask later
whether the vectors there are those of the artifact that it runs.

    canaries = encoder.canaries()
    index.add(ids, embed_as_the_service_does(canaries.texts))
    …
    encoder.check_index(index.fetch(ids))     # GateMissed: another prompt, another model, …

The texts are golden ones of several kinds, and one that is longer than a page, so that another
length of truncation shows. A vector of the index and one of this artifact may each be as far from
the source's as their gate allows, and as this artifact was measured: with the measured 1−cos w and
the gate's limit L of one text, and r = 2⁻¹¹ for an index that stores half precision, their 1−cos is
at most

    (√w + √L + r/√2)²

since 1−cos is half the squared distance of unit vectors, and distances add up at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from goldfold.exporter.artifact.bundle import GOLDEN, Bundle
from goldfold.exporter.contract import Task
from goldfold.exporter.errors import ArtifactError, GateMissed, UsageError
from goldfold.golden import store
from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import limits
from goldfold.golden.store import Goldens

_COUNT = 8
_ASKED = 3
"""Canaries that are embedded with each prompt, to find the one that an index was made with."""
_LEAST, _MOST, _LONG = 8, 64, 1024
"""Tokens of a canary, and the most of the long one."""
_HALF = 2.0**-11
"""The largest relative rounding of a component that is stored in half precision."""
_LENGTH = 1e-3
"""Largest |‖vector‖ − 1| of unit vectors: half precision moves a length by 2⁻¹¹ at most."""


@dataclass(frozen=True)
class IndexCanaries:
    """Texts, and this artifact's vectors of them."""

    texts: tuple[str, ...]
    """As a service embeds its own: without a prompt, of any length."""
    vectors: np.ndarray
    """float32 [N, D]."""
    limit: float
    """The largest 1−cos of a vector of the index with these."""


def of(encoder: Any, task: Task, dims: int | None) -> IndexCanaries:
    """Returns the canaries of an encoder, computed now. Raises ArtifactError where its goldens
    cannot be read, UsageError where there are none."""
    opened = encoder.bundle
    try:
        goldens = store.load(opened.path / GOLDEN)
        limit = limits(opened.manifest.gate, goldens).worst
    except GoldenError as error:
        raise ArtifactError(f"{opened.path} is damaged: {error}") from None
    texts = tuple(_chosen(goldens))
    if not texts:
        raise UsageError(f"{opened.path} carries no golden texts; choose canaries of your own")
    vectors = encoder.embed(texts, task=task, dims=dims)
    return IndexCanaries(texts, vectors, _allowed(opened, limit))


def check(encoder: Any, vectors: np.ndarray, task: Task) -> np.ndarray:
    """Returns the 1−cos of each vector of an index with this artifact's of the same canary, f64
    [N]. Raises GateMissed, UsageError."""
    given = np.asarray(vectors)
    known = of(encoder, task, given.shape[-1] if given.ndim == 2 else None)
    if given.shape != known.vectors.shape or given.dtype.kind != "f":
        count, dim = known.vectors.shape
        raise UsageError(
            f"vectors are {given.dtype} of shape {given.shape}; give the float vectors of "
            f"canaries().texts in their order: [{count}, {dim}], or fewer dimensions"
        )
    apart = _apart(given, known.vectors)
    if faults := list(_faults(encoder, given, known, apart, task)):
        raise GateMissed(
            f"the index does not hold the vectors of {encoder.bundle.path}: {'; '.join(faults)}"
        )
    return apart


def _faults(
    encoder: Any, given: np.ndarray, known: IndexCanaries, apart: np.ndarray, task: Task
) -> Iterator[str]:
    if odd := np.flatnonzero(~np.isfinite(apart)).tolist():
        yield f"canaries {odd} are not finite, or zero"
    off = np.flatnonzero(np.isfinite(apart) & ~(apart <= known.limit))
    if len(off):
        worst = int(off[apart[off].argmax()])
        yield (
            f"{len(off)} of {len(apart)} canaries are off, canary {worst} by 1−cos "
            f"{apart[worst]:.1e}, over {known.limit:.1e}{_cause(encoder, given, known, off, task)}"
        )
    lengths = np.linalg.norm(given[np.isfinite(apart)].astype(np.float64), axis=1)
    if encoder.contract.normalized and len(lengths):
        far = float(np.abs(lengths - 1).max())
        if far > _LENGTH:
            length = lengths[np.abs(lengths - 1).argmax()]
            yield f"they are no unit vectors: a length is {length:.4g}"


def _cause(
    encoder: Any, given: np.ndarray, known: IndexCanaries, off: np.ndarray, task: Task
) -> str:
    """Returns the cause of a drift, where undoing it brings the vectors back; "" otherwise."""
    for row in off:
        others = _apart(np.repeat(given[[row]], len(given), axis=0), known.vectors)
        if others.min() <= known.limit:
            return "; they stand in another order"
    own, dims, off = encoder.prefix(None, task), given.shape[1], off[:_ASKED]
    for name, prefix in {"": "", **encoder.contract.prompts}.items():
        if prefix == own:
            continue
        rows = encoder.embed([known.texts[row] for row in off], name, dims)
        if (_apart(given[off], rows) <= known.limit).all():
            return f"; they were made with {f'the prompt {name!r}' if name else 'no prompt'}"
    return ""


def _apart(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    one, other = (side.astype(np.float64) for side in (rows, others))
    with np.errstate(all="ignore"):
        one, other = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in (one, other))
        found = 0.5 * ((one - other) ** 2).sum(axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def _allowed(opened: Bundle, limit: float) -> float:
    seen = limit if opened.verdict is None else min(opened.verdict.measurement.larger, limit)
    return (math.sqrt(seen) + math.sqrt(limit) + _HALF / math.sqrt(2)) ** 2


def _chosen(goldens: Goldens) -> Iterator[str]:
    """Yields a text of each kind, and the longest within a page or so."""
    found: dict[str, int] = {}
    for case in goldens.cases:
        plain = not case.call and not case.prompt and case.text.strip()
        if plain and len(case.token_ids) <= _LONG:
            found.setdefault(case.text, len(case.token_ids))
    kinds = {case.text: case.kind for case in goldens.cases}
    fitting = [text for text, size in found.items() if _LEAST <= size <= _MOST]
    first = {kinds[text]: text for text in reversed(fitting)}.values()
    some = list(dict.fromkeys([*reversed(first), *fitting, *found]))[:_COUNT]
    longest = max(found, key=lambda text: found[text], default="")
    if longest and longest not in some:
        some.append(longest)
    yield from some
