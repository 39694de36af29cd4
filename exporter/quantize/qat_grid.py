"""Weights of a QAT checkpoint lie on a grid already, although they are saved in floating point.

Training with rounded weights leaves matrices that are integers times a scale, up to the digits they
were saved in. Rounding anew would move them off that grid; this module recovers their own integers.
"""

from __future__ import annotations

import numpy as np

from goldfold.exporter.passes.rewriting.grid import Grid, Quantized, representable

_STORED = 2.0**-8
"""The largest distance of a number from its grid, relative to itself: one rounding to bf16 in
storage, and one of the scale to fp16."""

_FREE = 0.02
"""The further distance that is allowed, in steps."""

_CHUNK = 1 << 21
"""Numbers that are processed at once."""


def recovered(matrix: np.ndarray, grid: Grid) -> Quantized | None:
    """The integers and scales that `matrix` was made of; None if it does not lie on `grid`.

    A scale is the largest that makes every number of its channel or block an integer. For a block
    whose integers have a common divisor, the result is a multiple of the scale, and the same
    matrix.

    Args:
        matrix: floating [channels, inputs]; may be memory-mapped, and is read in parts.
    """
    channels, inputs = matrix.shape
    numbers = np.empty((channels, inputs), np.int8)
    scale = np.empty((channels, grid.blocks(inputs)), np.float32)
    step = max(1, _CHUNK // max(inputs, 1))
    for start in range(0, channels, step):
        rows = slice(start, min(start + step, channels))
        parts = np.asarray(matrix[rows], np.float32)
        parts = parts.reshape(len(parts) * scale.shape[1], -1)
        found = _scales(parts, grid)
        if found is None:
            return None
        steps = found[:, None]
        rounded = np.clip(np.rint(parts / steps), grid.low, grid.high)
        scale[rows] = found.reshape(-1, scale.shape[1])
        numbers[rows] = rounded.astype(np.int8).reshape(-1, inputs)
    return Quantized(grid, numbers, scale)


def _scales(parts: np.ndarray, grid: Grid) -> np.ndarray | None:
    """The scale of each row of f32 [blocks, numbers]: f32 [blocks]; None if a row has none."""
    widest = np.abs(parts).max(axis=1)
    found = np.ones(len(parts), np.float32)
    waiting = np.flatnonzero(widest > 0)
    for most in range(1, -grid.low + 1):  # the widest number of a row, as an integer
        if not len(waiting):
            break
        rows = parts[waiting]
        tried = widest[waiting] / np.float32(most)
        fits = _fits(rows[:, :16], tried, grid)  # most candidates fail in the first numbers
        fits[fits] = _fits(rows[fits], tried[fits], grid)
        better = _refined(rows[fits], tried[fits])
        held = representable(better)
        if (np.abs(held - better) > _STORED * better).any():
            return None  # fp16 has no such scale: a subnormal, or beyond the largest
        found[waiting[fits]] = held
        waiting = waiting[~fits]
    return None if len(waiting) else found


def _fits(rows: np.ndarray, scale: np.ndarray, grid: Grid) -> np.ndarray:
    exact = rows / scale[:, None]
    near = np.rint(exact)
    # Storage rounded both the number and the widest number, from which the scale is taken.
    slack = np.minimum(2 * _STORED * np.abs(near) + _FREE, 0.25)
    inside = (near >= grid.low) & (near <= grid.high)
    return np.all(inside & (np.abs(exact - near) <= slack), axis=1)


def _refined(rows: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The least-squares scale for the integers."""
    near = np.rint(rows / scale[:, None])
    return ((rows * near).sum(axis=1) / np.maximum((near * near).sum(axis=1), 1)).astype(np.float32)
