"""The bootstrap bounds a loss by the upper end of a paired bootstrap's 95 % interval.

The same resampled queries (or texts) are taken from the reference and from the artifact, so the
difficulty of a query cancels, and the artifact's part is left. The corpus stays unchanged.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
SEED = 20240911
UPPER = 97.5
"""The percentile at the upper end of a two-sided 95 % interval."""

_CHUNK = 200


def loss(reference: float, artifact: float) -> float:
    """The share of the reference's score that is lost; negative where the artifact's is higher."""
    return 1 - artifact / reference if reference else float("inf")


def mean_loss(
    reference: np.ndarray, artifact: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[float, float]:
    """(loss of the mean, its upper end) of scores [N] of the same N queries."""
    random = np.random.default_rng(seed)
    count = len(reference)
    losses = []
    for begin in range(0, resamples, _CHUNK):
        drawn = random.integers(0, count, (min(_CHUNK, resamples - begin), count))
        losses.append(_ratio(reference[drawn].sum(axis=1), artifact[drawn].sum(axis=1)))
    return (
        loss(float(reference.mean()), float(artifact.mean())),
        float(np.percentile(np.concatenate(losses), UPPER)),
    )


def pair_loss(
    correlation,
    people: np.ndarray,
    reference: np.ndarray,
    artifact: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float]:
    """(loss of `correlation` with `people`, its upper end); all three are [N, N] over the same
    texts.

    Texts are resampled, not pairs: the pairs of one text are not independent. A pair of a text with
    itself, which a resample can hold, has no information and is left out.
    """
    random = np.random.default_rng(seed)
    count = len(people)
    upper = np.triu_indices(count, 1)
    whole = loss(*(correlation(people[upper], m[upper]) for m in (reference, artifact)))
    losses = []
    for drawn in random.integers(0, count, (resamples, count)):
        i, j = drawn[upper[0]], drawn[upper[1]]
        apart = i != j
        i, j = i[apart], j[apart]
        losses.append(loss(*(correlation(people[i, j], m[i, j]) for m in (reference, artifact))))
    return whole, float(np.percentile(losses, UPPER))


def _ratio(reference: np.ndarray, artifact: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 1 - artifact / reference
    # A resample in which the reference answers no query cannot lose.
    return np.where(reference > 0, found, 0.0)
