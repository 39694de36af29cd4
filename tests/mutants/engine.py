"""A compiled engine's constants, found by their bytes: it has no other door here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ENGINE = "model.engine"
_LEAST = 24
"""Bytes of a row that are looked for: fewer lie anywhere by chance."""


def place(rng: np.random.Generator, folder: Path) -> str:
    """Where a mutation of a constant goes: "file", "engine" or "both"."""
    if not (folder / ENGINE).is_file():
        return "file"
    return ("file", "engine", "both")[int(rng.integers(3))]


def patch(folder: Path, old: np.ndarray, new: np.ndarray) -> int:
    """Write the rows of `new` over those of `old` in the engine, as they lie or transposed, in f32
    or f16; returns how many rows were found."""
    path = folder / ENGINE
    raw = bytearray(path.read_bytes())
    count = 0
    for was, now in ((old, new), (old.T, new.T)):
        for kind in (np.float32, np.float16) if old.dtype.kind == "f" else (old.dtype,):
            count += _rows(raw, was.astype(kind), now.astype(kind))
        if count:
            break
    if count:
        path.write_bytes(raw)
    return count


def _rows(raw: bytearray, was: np.ndarray, now: np.ndarray) -> int:
    places = []
    for row in np.flatnonzero((was != now).any(axis=1)):
        before = was[row].tobytes()
        at = raw.find(before) if len(before) >= _LEAST else -1
        if at >= 0 and raw.find(before, at + 1) < 0:
            places.append((at, now[row].tobytes()))
    for at, after in places:
        raw[at : at + len(after)] = after
    return len(places)
