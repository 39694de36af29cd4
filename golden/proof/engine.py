"""The weights of an ONNX file inside an engine that a vendor's compiler made of it: a file whose
format is not public, in which the same numbers must stand.

A compiler keeps a matrix in C order or transposed; whole, or row by row at one distance, where it
merged products that read the same value; or cut into blocks of equal width, where the graph does
so. A convolution's kernel may have its axes in any order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from goldfold.golden.proof import kinds
from goldfold.golden.proof.source import File
from goldfold.golden.proof.stored import Stored

LEAST = 4096
"""Bytes of the smallest constant that is looked for: smaller ones stand in many places."""
_PROBE, _ROWS, _PLACES = 64, 16, 64
_PART, _REACH = 1 << 24, 1 << 22
"""Bytes that are read at once, and the largest distance of two rows."""
_AXES = 4
_CUTS = 64
"""Blocks of columns at most: no model has more heads in one matrix."""


class Engine:
    """An engine's bytes, searched from where the last constant was found: a compiler writes them
    nearly in the order of the graph."""

    def __init__(self, path: Path) -> None:
        file = File(path, path.name)
        self._raw, self._last = bytearray(file.size), 0
        for at in range(0, file.size, _PART):
            size = min(_PART, file.size - at)
            self._raw[at : at + size] = file.read(at, size).data
        file.check_unchanged()
        file.close()
        self._held = np.frombuffer(self._raw, np.uint8)
        self._nowhere: set[bytes] = set()

    def holds(self, stored: Stored) -> bool:
        """Returns whether a constant stands in the engine in one of the orders."""
        return any(map(self._stands, _forms(stored)))

    def _stands(self, blocks: np.ndarray) -> bool:
        """Returns whether rows of bytes stand in the engine at one distance, and blocks of them, as
        uint8 [blocks, rows, bytes], at another: what changed places with another is not there."""
        count, rows, width = blocks.shape
        if (blocks == blocks[0, 0, 0]).all():
            return self._raw.find(blocks.tobytes()) >= 0
        middle = _telling(blocks[0])
        for place in self._places(blocks[0, middle, :_PROBE].tobytes()):
            strides, apart = {width}, {rows * width}
            if middle + 1 < rows:
                strides.add(self._next(blocks[0, middle + 1], place + width) - place)
            if count > 1:
                apart.add(self._next(blocks[1, middle], place + width) - place)
            for stride, distance in itertools.product(strides, apart):
                begin = place - middle * stride
                if (
                    stride >= width
                    and distance > 0
                    and self._same(begin, blocks, (distance, stride))
                ):
                    self._last = begin
                    return True
        return False

    def _next(self, row: np.ndarray, after: int) -> int:
        return self._raw.find(row[:_PROBE].tobytes(), after, after + _REACH)

    def _places(self, probe: bytes) -> Iterator[int]:
        """Yields the first places of some bytes: from the last constant on, then from the start.
        Blocks of one matrix begin alike, and bytes that are nowhere are searched for once."""
        found = 0
        if probe in self._nowhere:
            return
        for begin, end in ((self._last, len(self._raw)), (0, self._last + len(probe) - 1)):
            at = self._raw.find(probe, begin, end)
            while at >= 0 and found < _PLACES:
                found += 1
                yield at
                at = self._raw.find(probe, at + 1, end)
        if not found:
            self._nowhere.add(probe)

    def _same(self, begin: int, blocks: np.ndarray, strides: tuple[int, int]) -> bool:
        count, rows, width = blocks.shape
        end = begin + (count - 1) * strides[0] + (rows - 1) * strides[1] + width
        if begin < 0 or end > len(self._raw) or strides[0] < 1 or strides[1] < width:
            return False
        held = np.lib.stride_tricks.as_strided(self._held[begin:], blocks.shape, (*strides, 1))
        return bool(np.array_equal(held, blocks))


def missing(path: Path, stored: list[Stored]) -> Iterator[tuple[str, str]]:
    """Yields each matrix that an engine does not hold, and a sentence. Vectors are not looked for:
    a compiler may multiply a scale by a step, or fold one into another."""
    engine = Engine(path)
    for one in stored:
        number = one.kind in kinds.FLOATS or one.kind in ("int8", "int4", "uint8", "uint4")
        matrix = sum(size > 1 for size in one.shape) > 1
        if number and matrix and one.size >= LEAST and not engine.holds(one):
            yield one.name, f"{path.name} holds its {one.size:,} bytes nowhere"


def _forms(stored: Stored) -> Iterator[np.ndarray]:
    """Yields the bytes of a matrix in each of the orders in which it may be held, as uint8 [blocks,
    rows, bytes]."""
    sizes = [size for size in stored.shape if size != 1]
    small = kinds.bits(stored.kind) == 4
    numbers = stored.numbers() if small else stored.read(0, stored.size)
    numbers = numbers.view(numbers.dtype if small else kinds.holder(stored.kind)).reshape(sizes)
    orders = [numbers.reshape(-1, sizes[-1])]
    for axes in itertools.permutations(range(len(sizes))) if len(sizes) <= _AXES else ():
        turned = numbers.transpose(axes)
        orders += [turned.reshape(-1, turned.shape[-1])] if axes != tuple(sorted(axes)) else []
    if small:
        even = [matrix for matrix in orders if matrix.shape[1] % 2 == 0]
        yield from (kinds.pack_nibbles(np.ascontiguousarray(matrix))[None] for matrix in even)
        return
    yield from (_bytes(matrix[None]) for matrix in orders)
    for cuts, matrix in itertools.product(range(2, _CUTS + 1), orders[:2]):
        for axis in (0, 1):
            if matrix.shape[axis] % cuts == 0:
                yield _bytes(np.stack(np.split(matrix, cuts, axis)))


def _bytes(blocks: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(blocks).view(np.uint8).reshape(*blocks.shape[:2], -1)


def _telling(lines: np.ndarray) -> int:
    """Returns a row, not the last of several, whose first bytes are the most different ones."""
    rows = np.unique(np.linspace(0, max(0, len(lines) - 2), _ROWS).astype(np.int64))
    return int(max(rows, key=lambda row: len(np.unique(lines[row, :_PROBE]))))
