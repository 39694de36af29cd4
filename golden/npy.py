"""Arrays of numpy's own format that somebody else wrote."""

from __future__ import annotations

import io
import math

import numpy as np


def read(raw: bytes, name: str) -> np.ndarray:
    """The array of an .npy file. ValueError if the file is shorter than its header declares: numpy
    allocates memory for the whole array before it reads."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version)
    if header is None:
        raise ValueError(f"{name} has the version {version}, not (1, 0)")
    shape, _, kind = header(file)
    if math.prod(shape) * kind.itemsize != len(raw) - file.tell():
        raise ValueError(f"{name} does not hold the {shape} numbers that it says")
    return np.load(io.BytesIO(raw), allow_pickle=False)
