"""GPTQ moves the error of a rounded weight onto the weights that are not rounded yet.

Elias Frantar, Saleh Ashkboos, Torsten Hoefler and Dan Alistarh, "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", 2022.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from goldfold.exporter.errors import UsageError
from goldfold.exporter.passes.rewriting.grid import PAIR, Grid, Quantized, scales

_DAMPING = (0.01, 0.1, 1.0)
"""Shares of the diagonal's mean that are added to the diagonal of the moments: directions that no
calibration text has are then left alone instead of being blown up. The larger ones are for moments
that are singular in spite of it: of channels that are all the same huge number."""

_LAZY = 128
"""Weights that are rounded before their corrections reach the rest, in one matrix product."""


@dataclass(frozen=True)
class Order:
    """The order of rounding, and the factor, for every matrix that reads one value."""

    strength: np.ndarray
    """f64 [inputs], the mean square of each."""
    order: np.ndarray
    """int [inputs], from the strongest to the weakest: the order in which they are rounded."""
    upper: np.ndarray
    """f32 [inputs, inputs], the upper Cholesky factor of the inverse moments, in that order."""

    @classmethod
    def of(cls, moments: np.ndarray, name: str = "an input") -> Order:
        """Builds it from the mean of x xᵀ over the calibration tokens, f64 [inputs, inputs]; x is
        the value `name`. Raises UsageError where f32 did not hold them."""
        strength = np.diag(moments).copy()
        order = np.argsort(-strength, kind="stable")
        damped = moments[np.ix_(order, order)].astype(np.float64)
        diagonal, mean = np.diag(damped).copy(), float(strength.mean()) or 1.0
        for share in _DAMPING if np.isfinite(damped).all() else ():
            np.fill_diagonal(damped, np.where(diagonal > 0, diagonal, mean) + share * mean)
            with suppress(np.linalg.LinAlgError):
                upper = np.linalg.cholesky(np.linalg.inv(damped)).T
                return cls(strength, order, upper.astype(np.float32))
        raise UsageError(
            f"{name} has values on calibration texts that are too large to round weights by: leave "
            "what reads it in floating point (bits = 0 in a rule of a recipe)"
        )


def compensated(matrix: np.ndarray, grid: Grid, seen: Order) -> Quantized:
    """Round floating [channels, inputs] for the least squared error of the outputs.

    Scales are set first, from the unchanged weights, so that blocks stay blocks of neighbours.
    Inputs that are always zero keep a rounded weight.
    """
    inputs, order, upper = matrix.shape[1], seen.order, seen.upper
    scale = scales(np.ascontiguousarray(matrix, np.float32), grid, seen.strength)
    spread = np.repeat(scale, inputs // scale.shape[1], axis=1)
    # [inputs, channels] in the order of rounding: a row is one input of all channels.
    rest = np.ascontiguousarray(matrix.T[order], np.float32)
    steps = np.ascontiguousarray(spread.T[order])
    found = np.zeros_like(rest)
    places = partners(order) if grid.pairs else order
    for start in range(0, inputs, _LAZY):
        stop = min(start + _LAZY, inputs)
        errors = np.empty((stop - start, rest.shape[1]), np.float32)
        for row in range(start, stop):
            near = rest[row] / steps[row]
            low, high = grid.low, grid.high
            if grid.pairs:
                other = places[row]
                beside = found[other] if other <= row else rest[other] / steps[other]
                low, high = _room(grid, near, beside, other <= row)
            found[row] = np.clip(np.rint(near), low, high)
            error = (rest[row] - found[row] * steps[row]) / upper[row, row]
            errors[row - start] = error
            rest[row + 1 : stop] -= upper[row, row + 1 : stop, None] * error
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    numbers = np.empty(matrix.shape, np.int8)
    numbers[:, order] = found.T.astype(np.int8)
    return Quantized(grid, numbers, scale)


def partners(order: np.ndarray) -> np.ndarray:
    """For each place in the order of rounding, the place of the input beside it (2i and 2i + 1);
    its own for a last one that has none."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    beside = order ^ 1
    return place[np.where(beside < len(order), beside, order)]


def _room(
    grid: Grid, near: np.ndarray, beside: np.ndarray, rounded: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest integers [channels] of an input that is `near` them, by the
    integers of its partner; where that is not rounded yet, the two share what is too much."""
    most = PAIR - np.abs(beside)
    if not rounded:
        most = np.where(np.abs(near) > most, np.floor((np.abs(near) + most) / 2), most)
    most = np.maximum(most, 0)
    low = np.where(beside < 0, np.maximum(grid.low, -most), grid.low)
    return low, np.where(beside > 0, np.minimum(grid.high, most), grid.high)
