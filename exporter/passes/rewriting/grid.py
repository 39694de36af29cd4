"""The grid of a matrix: its integers, its scales, and the integer of each weight.

Matrices here are [channels, inputs], with one scale per channel, or one per block of `block`
neighbouring inputs of a channel. All grids are symmetric: no zero-points, which TensorRT does not
take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_CHUNK = 1 << 22
"""Numbers that are processed at once, so that a large table is never copied whole."""

_RATIOS = np.linspace(1.0, 0.6, 17)
"""Shares of the range that are tried for a scale; values beyond are clipped."""
_WIDER = np.linspace(2.0, 1.0, 16, endpoint=False)
"""Shares above 1, where neighbours are paired: they then exceed PAIR together less often."""

PAIR = 128
"""The most that two neighbouring weights of one sign may be together, where they are paired: a byte
times PAIR is below 2¹⁵."""

COARSE = 2.0**-21
"""Below it fp16's subnormals are an eighth of a number apart, or more."""


@dataclass(frozen=True)
class Grid:
    """The bits and the block of a matrix. `bits` is 8 or 4, or between them: any for tables, 7 with
    static activations. `block` 0 is one scale per channel."""

    bits: int
    block: int = 0
    pairs: bool = False
    """Whether inputs 2i and 2i + 1 of one sign are at most PAIR together: sums of their products
    with bytes then fit 16 bits, as some processors add them."""

    @property
    def low(self) -> int:
        """−127: the mirror of the highest, as TensorRT has it; −8 in four bits, where a sixteenth
        of all numbers is too much to give away, −32 in six."""
        return -127 if self.bits == 8 else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def blocks(self, inputs: int) -> int:
        """The number of scales of a channel with this many inputs."""
        return inputs // self.block if self.block else 1


@dataclass(frozen=True)
class Quantized:
    """A matrix as numbers · scale."""

    grid: Grid
    numbers: np.ndarray
    """int8 [channels, inputs], within the grid."""
    scale: np.ndarray
    """f32 [channels, blocks]; fp16 holds each of them, so that all targets share them."""
    columns: np.ndarray | None = None
    """f32 [inputs]: a further factor of each input; of tables alone."""

    def dense(self) -> np.ndarray:
        """The matrix again, f32 [channels, inputs]."""
        channels, inputs = self.numbers.shape
        parts = self.numbers.reshape(channels, self.scale.shape[1], -1).astype(np.float32)
        found = (parts * self.scale[:, :, None]).reshape(channels, inputs)
        return found if self.columns is None else found * self.columns


def nearest(
    matrix: np.ndarray,
    grid: Grid,
    importance: np.ndarray | None = None,
    search: bool = True,
    columns: np.ndarray | None = None,
) -> Quantized:
    """Round every weight to the nearest integer of its scale.

    Args:
        matrix: floating [channels, inputs]; may be memory-mapped, and is read in parts.
        importance: [inputs], the mean square of each input; a scale is chosen for the least squared
            error weighted by it, over _RATIOS of the range. All alike if None.
        search: whether to search for the scale; else the whole range gives it.
        columns: f32 [inputs], factors that the caller applies: `matrix / columns` is rounded.
    """
    channels, inputs = matrix.shape
    numbers = np.empty((channels, inputs), np.int8)
    scale = np.empty((channels, grid.blocks(inputs)), np.float32)
    step = max(1, _CHUNK // max(inputs, 1))
    for start in range(0, channels, step):
        rows = slice(start, start + step)
        part = np.asarray(matrix[rows], np.float32)
        part = part if columns is None else part / columns
        scale[rows] = scales(part, grid, importance, search)
        numbers[rows] = _round(part, scale[rows], grid)
    return Quantized(grid, numbers, scale, columns)


def parts(
    matrix: np.ndarray, found: Quantized
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields weights (f32, divided by their columns' factors), integers and scales of a few
    channels at a time, each as [channels, blocks, inputs of a block]; scales broadcast."""
    channels, inputs = matrix.shape
    step = max(1, _CHUNK // max(inputs, 1))
    for start in range(0, channels, step):
        rows = slice(start, start + step)
        part = np.asarray(matrix[rows], np.float32)
        part = part if found.columns is None else part / found.columns
        shape = (len(part), found.scale.shape[1], -1)
        numbers = found.numbers[rows].reshape(shape)
        yield part.reshape(shape), numbers, found.scale[rows][:, :, None]


def sizes(matrix: np.ndarray) -> np.ndarray:
    """The root mean square of each column, f32 [inputs]; of a column of zeros, 1."""
    total = np.zeros(matrix.shape[1])
    step = max(1, _CHUNK // max(matrix.shape[1], 1))
    for start in range(0, matrix.shape[0], step):
        total += np.square(matrix[start : start + step], dtype=np.float64).sum(axis=0)
    found = np.sqrt(total / max(matrix.shape[0], 1)).astype(np.float32)
    return np.where(found > 0, found, np.float32(1))


def scales(
    matrix: np.ndarray, grid: Grid, importance: np.ndarray | None = None, search: bool = True
) -> np.ndarray:
    """The scales of f32 [channels, inputs]: f32 [channels, blocks]."""
    channels, inputs = matrix.shape
    blocks = grid.blocks(inputs)
    parts = matrix.reshape(channels, blocks, -1)
    widest = np.maximum(parts.max(axis=2) / grid.high, parts.min(axis=2) / grid.low)
    if grid.pairs and not search:
        for part in (np.maximum(parts, 0), np.maximum(-parts, 0)):
            both = part[..., :-1:2] + part[..., 1::2]
            widest = np.maximum(widest, both.max(axis=2, initial=0) / PAIR)
    full = representable(widest)
    if not search:
        return full
    weight = 1.0 if importance is None else importance.reshape(blocks, -1).astype(np.float32)
    best, least = full, np.full(full.shape, np.inf, np.float32)
    for ratio in (*_WIDER, *_RATIOS) if grid.pairs else _RATIOS:
        tried = representable(full * np.float32(ratio))
        steps = tried[:, :, None]
        error = parts - _nearest(parts / steps, grid) * steps
        cost = (error * error * weight).sum(axis=2)
        better = cost < least
        best, least = np.where(better, tried, best), np.where(better, cost, least)
    return best


def representable(scale: np.ndarray) -> np.ndarray:
    """Scales rounded to fp16, none of them 0 or infinite: larger ones are clipped, 0 becomes 1, and
    small ones are rounded up, so that no weight is clipped."""
    half = np.minimum(scale, np.finfo(np.float16).max).astype(np.float16)
    small = (half < scale) & (scale < COARSE)
    half = np.where(small, np.nextafter(half, np.float16(1)), half)
    return np.where(half > 0, half, np.float16(1)).astype(np.float32)


def _round(matrix: np.ndarray, scale: np.ndarray, grid: Grid) -> np.ndarray:
    channels, inputs = matrix.shape
    parts = matrix.reshape(channels, scale.shape[1], -1)
    found = _nearest(parts / scale[:, :, None], grid)
    return found.astype(np.int8).reshape(channels, inputs)


def _nearest(parts: np.ndarray, grid: Grid) -> np.ndarray:
    found = np.clip(np.rint(parts), grid.low, grid.high)
    return paired(found) if grid.pairs else found


def paired(numbers: np.ndarray) -> np.ndarray:
    """The integers [..., inputs] again, where two neighbours (2i, 2i + 1) of one sign are at most
    PAIR together: each gives half of what is too much."""
    found = numbers.astype(np.int16)
    first, second = found[..., :-1:2], found[..., 1::2]
    for sign in (1, -1):
        one, two = np.maximum(sign * first, 0), np.maximum(sign * second, 0)
        over = np.maximum(one + two - PAIR, 0)
        over = np.where((one > 0) & (two > 0), over, 0)
        first -= sign * (over - over // 2)
        second -= sign * (over // 2)
    return found.astype(numbers.dtype)
