"""Sparse vectors [N, V] as triplets: float32 [K, 3], (row, column, value) of every non-zero number.

A float32 holds every whole number up to 2^24, and a vocabulary has fewer entries. Triplets are
sorted by row and column, so that one array has one form.
"""

from __future__ import annotations

import numpy as np

WIDEST = 1 << 20
"""More columns than any vocabulary has."""
_NUMBERS = 1 << 26
"""The most numbers of the dense array, 256 MiB: 112 texts of a vocabulary of 512k."""


def pack(rows: np.ndarray) -> np.ndarray | None:
    """Returns the triplets of float32 [N, V]; None where they take no less room than the array."""
    at = np.argwhere(rows)
    if 3 * len(at) >= rows.size or rows.shape[1] > WIDEST:
        return None
    values = rows[at[:, 0], at[:, 1]]
    return np.column_stack([at.astype(np.float32), values.astype(np.float32)])


def unpack(triplets: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Returns float32 [rows, columns]. Raises ValueError for triplets that `pack` did not make."""
    if not 0 < columns <= WIDEST or rows * columns > _NUMBERS:
        raise ValueError(f"{rows} rows of {columns} numbers are more than any goldens hold")
    if triplets.dtype != np.float32 or triplets.ndim != 2 or triplets.shape[1] != 3:
        raise ValueError(f"the triplets are {triplets.dtype} {triplets.shape}, not float32 [K, 3]")
    places, values = triplets[:, :2], triplets[:, 2]
    within = (places >= 0) & (places < np.array([rows, columns]))
    if not within.all() or (places != np.floor(places)).any():  # of NaN, `within` is false
        raise ValueError(f"a triplet lies outside {rows} rows of {columns} numbers")
    at = places.astype(np.int64)
    order = at[:, 0] * columns + at[:, 1]
    if (np.diff(order) <= 0).any():
        raise ValueError("the triplets are not in the order of rows and columns, each place once")
    if not np.isfinite(values).all() or not values.all():
        raise ValueError("a triplet's value is zero, or not finite")
    dense = np.zeros((rows, columns), np.float32)
    dense.reshape(-1)[order] = values
    return dense
