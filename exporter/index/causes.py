"""Likely causes of a drift, found in the vectors alone: rows in another order, dimensions in
another order or of another sign, another prompt. A cause is named only where undoing it brings the
vectors back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from goldfold.exporter.contract import Task
from goldfold.exporter.index.drift import nearest, usable
from goldfold.exporter.index.sides import Side, cut
from goldfold.golden.judging import unseen

_MOST = 0.5
"""The share of the drifted rows that a cause must bring back."""
_FEW = 32
"""Texts that are embedded again to look for a prompt."""


def of_rows(old: np.ndarray, new: np.ndarray, allowed: float) -> Iterator[str]:
    """Yields causes of rows [N, D] that drift by more than `allowed`."""
    good = usable(old) & usable(new)
    if broken := int((~usable(old)).sum()):
        yield f"{broken} rows of the index are not finite, or zero"
    old, new = (side[good].astype(np.float64) for side in (old, new))
    if len(old) < 2:
        return
    off = unseen.distances(new, old) > allowed
    if not off.any():
        return
    place = nearest(new[off], old)
    back = unseen.distances(new[off], old[place]) <= allowed
    if back.mean() >= _MOST and (place != np.flatnonzero(off)).any():
        yield f"{int(back.sum())} of {int(off.sum())} drifted vectors stand in another row"
        return
    if off.mean() < _MOST:
        yield f"{int(off.sum())} of {len(old)} vectors drift, and the others do not"
    yield from _dimensions(old, new, allowed)


def _dimensions(old: np.ndarray, new: np.ndarray, allowed: float) -> Iterator[str]:
    """Yields permuted or mirrored dimensions: each column of the one is a column of the other."""
    a, b = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (old, new))
    scales = [np.maximum(np.linalg.norm(side, axis=0), 1e-12) for side in (a, b)]
    alike = (a / scales[0]).T @ (b / scales[1])
    place = np.abs(alike).argmax(axis=1)
    signs = np.sign(alike[np.arange(len(place)), place])
    undone = b[:, place] * signs
    if float(np.median(unseen.distances(undone, a))) > allowed:
        return
    moved, mirrored = int((place != np.arange(len(place))).sum()), int((signs < 0).sum())
    if moved:
        yield f"{moved} of {len(place)} dimensions stand in another place"
    if mirrored:
        yield f"{mirrored} of {len(place)} dimensions have the other sign"


def of_prompts(
    new: Side, texts: Sequence[str], old: np.ndarray, allowed: float, task: Task = "document"
) -> Iterator[str]:
    """Yields the prompt of NEW, or its absence, under which the first texts have the index's
    vectors."""
    some, dim = list(texts[:_FEW]), old.shape[1]
    own = new.contract.prompt_of(task)
    prefixes = {"no prompt": "", **{f"prompt {n!r}": p for n, p in new.contract.prompts.items()}}
    for name, prefix in prefixes.items():
        if prefix == own or new.plain is None:
            continue
        rows = cut(new.plain([prefix + text for text in some]), dim, new.contract.normalized)
        good = usable(rows) & usable(old[: len(some)])
        if good.any() and (
            np.median(unseen.distances(rows[good], old[: len(some)][good])) <= allowed
        ):
            yield f"the index was made with {name}, and a {task} has {own[:40]!r} in front here"
            return
