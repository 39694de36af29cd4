"""The vectors of an index: a .npy file or an array, checked before anything is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from goldfold.exporter.errors import UsageError
from goldfold.exporter.index.drift import usable

_BLOCK = 1 << 14
"""Vectors that are looked at together."""


def opened(index: np.ndarray | str | Path | None, texts: Sequence[str] | None) -> np.ndarray:
    """Returns the vectors, float [N, D]; a file is mapped, not read. Raises UsageError for anything
    else, and for another number of texts."""
    if isinstance(index, np.ndarray):
        rows, name = index, "the index"
    else:
        rows, name = _mapped(Path(index or "")), f"--index {index}"
    if rows.ndim != 2 or 0 in rows.shape:
        raise UsageError(f"{name} has the shape {rows.shape}; it must be [vectors, dimensions]")
    if rows.dtype.kind != "f":
        raise UsageError(
            f"{name} holds {rows.dtype}; give the float vectors, before they were quantized"
        )
    if texts is not None and len(texts) != len(rows):
        raise UsageError(f"{name} has {len(rows)} vectors, and there are {len(texts)} texts")
    return rows


def unusable(rows: np.ndarray) -> int:
    """Returns how many vectors of a whole index are not finite, or zero."""
    blocks = range(0, len(rows), _BLOCK)
    return sum(int((~usable(np.asarray(rows[at : at + _BLOCK]))).sum()) for at in blocks)


def _mapped(file: Path) -> np.ndarray:
    said = "it is no .npy file of numbers"
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        said = getattr(error, "strerror", None) or said
        raise UsageError(f"--index {file} cannot be read: {said}") from None
    if not isinstance(found, np.ndarray):  # an archive of several
        raise UsageError(f"--index {file} cannot be read: {said}")
    return found
