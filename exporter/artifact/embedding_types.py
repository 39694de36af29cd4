"""Embeddings in fewer bits, as sentence-transformers' `quantize_embeddings` defines them.

| output | dtype, shape | a component x |
|---|---|---|
| `float32` | float32 [N, D] | x |
| `uint8` | uint8 [N, D] | floor((x - low) / step), clipped to 0 … 255; step = (high - low) / 255 |
| `int8` | int8 [N, D] | the same, less 128 |
| `ubinary` | uint8 [N, ceil(D/8)] | one bit, 1 if x > 0; eight to a byte, the first one highest |
| `binary` | int8 [N, ceil(D/8)] | those bytes, less 128 |

low and high are a dimension's range; a range of width 0 has step 1. Rank int8 and uint8 by inner
product, and bits by Hamming distance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from goldfold.exporter.errors import UsageError

OUTPUTS = ("float32", "int8", "uint8", "binary", "ubinary")

Ranges = Callable[[], np.ndarray]
"""Returns default ranges where the caller named none; called only if they are needed."""


def check_output(output: str) -> None:
    """Raise UsageError, listing the known names, for an unknown output."""
    if output not in OUTPUTS:
        raise UsageError(f"output is {output!r}; known: {', '.join(OUTPUTS)}")


def quantize(
    rows: np.ndarray, output: str, ranges: np.ndarray | None, default: Ranges
) -> np.ndarray:
    """Returns float32 [N, D] in the form that `output` names.

    `ranges` are float [2, D], the minimum and maximum of each dimension; None takes `default()`.
    Raises UsageError for an unknown output, and for ranges that have another shape, are not finite
    or are reversed.
    """
    check_output(output)
    if output == "float32":
        return rows
    if output in ("binary", "ubinary"):
        bits = np.packbits(rows > 0, axis=-1)
        return bits if output == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    low, high = _checked(default() if ranges is None else ranges, rows.shape[1])
    step = (high - low) / 255
    step = np.where(step == 0, np.float32(1), step)
    found = np.clip(np.floor((rows - low) / step), 0, 255)
    return found.astype(np.uint8) if output == "uint8" else (found - 128).astype(np.int8)


def ranges_of(rows: np.ndarray) -> np.ndarray:
    """Returns the minimum and maximum of each dimension of [N, D]; float32 [2, D]."""
    return np.stack([rows.min(axis=0), rows.max(axis=0)]).astype(np.float32)


def one_range(rows: np.ndarray) -> np.ndarray:
    """Returns one range -m … m for all dimensions of [N, D], m the largest component; float32
    [2, D]. Angles survive it: docs/judging.md has the figures."""
    return np.outer([-1, 1], np.full(rows.shape[1], np.abs(rows).max())).astype(np.float32)


def _checked(ranges: np.ndarray, dims: int) -> np.ndarray:
    try:
        ranges = np.asarray(ranges, dtype=np.float32)
    except (TypeError, ValueError):
        raise UsageError(f"ranges must be an array of numbers [2, {dims}]") from None
    if ranges.shape != (2, dims):
        raise UsageError(f"ranges are {ranges.shape}; these embeddings need (2, {dims})")
    if not np.isfinite(ranges).all() or (ranges[0] > ranges[1]).any():
        raise UsageError("ranges must be finite: row 0 the least, row 1 the largest values")
    return ranges
