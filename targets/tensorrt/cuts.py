"""The search for a weight that an engine holds in pieces: cut by the compiler at the borders of a
Split, transposed, or stored beside others in an order of its own.

Pieces are rectangles of the matrix whose rows stand at one distance. By themselves they prove
little: the same bytes may stand elsewhere, and two of them may have changed places. So there is a
second engine, the *twin*, which the same compiler built from the same graph with the last bit of
every number flipped (targets/tensorrt/twin.py). A piece counts where the engine holds its numbers
and the twin, at the very same place, holds the flipped ones: the bytes there follow the weight. A
place that holds a copy, a neighbour or padding does not.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_RUN = 16
"""Bytes of the shortest run that is looked for: a head of eight halves."""
_REACH = 1 << 22
"""Maximum distance in bytes of the rows of a piece."""
_SAMPLE = 16
"""Number of rows from which the one that is easiest to tell from others is chosen."""
_CANDIDATES = 64
_VARIETY = 4
"""Number of different bytes in a row that stands nowhere by chance."""
_PIECES = 1 << 12
"""Maximum pieces of a weight: a model has no more experts."""
_SIZES = (1, 2, 4, 8)
"""Bytes of a number."""
_ROUND = 1 << 23
"""Bytes that are compared at once."""


@dataclass(frozen=True)
class Twins:
    """An engine and its twin, byte by byte. Constants come last in the file; the bytes before them
    may be a few longer in one of the two, where a scalar is written out, so places are counted from
    the end."""

    engine: np.ndarray
    twin: np.ndarray
    raw: mmap.mmap
    """The whole file of the twin, to search in."""
    shift: int
    """The offset of `twin` in `raw`."""

    @classmethod
    def of(cls, engine: mmap.mmap, twin: mmap.mmap) -> Twins:
        size = min(len(engine), len(twin))
        first, second = (
            np.frombuffer(raw, np.uint8, size, len(raw) - size) for raw in (engine, twin)
        )
        return cls(first, second, twin, len(twin) - size)

    def find(self, probe: bytes, start: int, end: int | None = None) -> int:
        """Returns the first place of some bytes in the twin between two places, or -1."""
        end = len(self.raw) if end is None else end + self.shift
        return max(self.raw.find(probe, start + self.shift, end) - self.shift, -1)

    def find_before(self, probe: bytes, start: int, end: int) -> int:
        """Returns the last place of some bytes in the twin between two places, or -1."""
        return max(self.raw.rfind(probe, start + self.shift, end + self.shift) - self.shift, -1)


@dataclass(frozen=True)
class Lines:
    """The rows of a weight in bytes, as the engine and its twin should hold them."""

    engine: np.ndarray
    twin: np.ndarray


@dataclass(frozen=True)
class Rectangle:
    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Piece:
    """A rectangle of the weight that was found: row `top` at `place`, each further one `stride`
    bytes on."""

    part: Rectangle
    place: int
    stride: int

    @property
    def end(self) -> int:
        """The place after its last byte."""
        part = self.part
        return self.place + (part.bottom - part.top - 1) * self.stride + part.right - part.left


def cut(twins: Twins, lines: Lines) -> list[Piece] | None:
    """Returns the pieces in which the engine holds a weight; None if it lacks any byte of it."""
    rows, width = lines.engine.shape
    if (piece := _repeated(twins, lines)) is not None:
        return [piece]
    waiting, found = [Rectangle(0, rows, 0, width)], []
    while waiting:
        rest = waiting.pop()
        piece = _piece(twins, lines, rest, found)
        if piece is None or len(found) == _PIECES or _lacks_a_copy(twins, lines, piece, found):
            return None
        found.append(piece)
        part = piece.part
        around = (
            Rectangle(part.bottom, rest.bottom, rest.left, rest.right),
            Rectangle(rest.top, part.top, rest.left, rest.right),
            Rectangle(part.top, part.bottom, part.right, rest.right),
        )
        waiting += [r for r in around if r.top < r.bottom and r.left < r.right]
    return found


def pattern(lines: np.ndarray) -> bytes | None:
    """Returns the bytes of the one number that a whole weight repeats; None if it holds several."""
    flat = lines.reshape(-1)
    for size in _SIZES:
        if np.array_equal(flat[:size], flat[size : 2 * size]) and np.array_equal(
            flat[size:], flat[:-size]
        ):
            return flat[:size].tobytes()
    return None


def stretches(held: np.ndarray, number: bytes, size: int) -> Iterator[int]:
    """Yields the beginnings of stretches of `size` bytes that repeat one number."""
    step = len(number)
    same = np.concatenate(([False], held[step:] == held[:-step], [False]))
    edges = np.flatnonzero(same[1:] != same[:-1])
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        for place in range(int(first), int(first) + step):
            if last + step - place >= size and held[place : place + step].tobytes() == number:
                yield place
                break


def _repeated(twins: Twins, lines: Lines) -> Piece | None:
    """Returns the piece of a weight of one number, which stands in one piece."""
    number, other, size = pattern(lines.engine), pattern(lines.twin), lines.engine.size
    if number is None or other is None:
        return None
    for place in stretches(twins.twin, other, size):
        if np.array_equal(twins.engine[place : place + size], lines.engine.reshape(-1)):
            rows, width = lines.engine.shape
            return Piece(Rectangle(0, rows, 0, width), place, width)
    return None


def _piece(twins: Twins, lines: Lines, rest: Rectangle, found: list[Piece]) -> Piece | None:
    """Returns the largest piece that begins at the left of `rest`."""
    row = _telling(lines, rest)
    end = min(rest.left + _RUN, rest.right)
    best: Piece | None = None
    for place in _places(twins, lines, rest, row, found):
        if not _same(twins, lines, row, rest.left, end, place):
            continue
        for stride in _strides(twins, lines, rest, row, end, place, found):
            piece = _grown(twins, lines, rest, row, place, stride)
            if piece is not None and (best is None or _area(piece.part) > _area(best.part)):
                best = piece
        if best is not None and _area(best.part) >= min(_area(rest), 4096):
            return best
    return best


def _lacks_a_copy(twins: Twins, lines: Lines, piece: Piece, found: list[Piece]) -> bool:
    """Returns whether a piece was found among the bytes of earlier ones, though the twin has a
    place of its own for it, where the engine holds something else.

    The compiler keeps equal constants once: then the twin has no other place.
    """
    if not any(_meet(piece, other) for other in found):
        return False
    part, row = piece.part, _telling(lines, piece.part)
    probe, wanted = (held[row, part.left : part.right] for held in (lines.twin, lines.engine))
    if len(np.unique(probe)) < _VARIETY:
        return False  # such a row may stand anywhere
    near = 2 * lines.engine.size  # the compiler stores the parts of one weight side by side
    at, end = max(0, piece.place - near), min(piece.end + near, twins.twin.size)
    while (at := twins.find(probe.tobytes(), at, end)) >= 0:
        if not np.array_equal(twins.engine[at : at + len(wanted)], wanted):
            return True
        at += 1
    return False


def _meet(piece: Piece, other: Piece) -> bool:
    """Returns whether the range from the first byte of one piece to its last has bytes of the
    other."""
    return piece.place < other.end and other.place < piece.end


def _area(part: Rectangle) -> int:
    return (part.bottom - part.top) * (part.right - part.left)


def _telling(lines: Lines, rest: Rectangle) -> int:
    """Returns the row of a sample whose first bytes differ most among themselves."""
    rows = np.unique(np.linspace(rest.top, rest.bottom - 1, _SAMPLE).astype(np.int64))
    end = min(rest.left + 4 * _RUN, rest.right)
    variety = [len(np.unique(lines.engine[row, rest.left : end])) for row in rows]
    return int(rows[int(np.argmax(variety))])


def _same(twins: Twins, lines: Lines, row: int, left: int, right: int, place: int) -> bool:
    """Returns whether bytes `left` to `right` of a row stand at `place`, and flipped in the
    twin."""
    to = place + right - left
    if place < 0 or to > twins.engine.size:
        return False
    return np.array_equal(twins.twin[place:to], lines.twin[row, left:right]) and np.array_equal(
        twins.engine[place:to], lines.engine[row, left:right]
    )


def _places(
    twins: Twins, lines: Lines, rest: Rectangle, row: int, found: list[Piece]
) -> Iterator[int]:
    """Yields possible beginnings of a row of `rest`: beside the last piece first, then wherever its
    bytes are."""
    if found:
        last = found[-1]
        part, down = last.part, (row - rest.top) * last.stride
        height, width = part.bottom - part.top, part.right - part.left
        yield last.place + width + down
        yield last.place - width + down
        for size in {height * last.stride, height * width}:
            yield last.place + size + down
            yield last.place - size + down
        if len(found) > 1:
            yield 2 * last.place - found[-2].place + down
    probe = lines.twin[row, rest.left : min(rest.left + _RUN, rest.right)].tobytes()
    at = twins.find(probe, 0)
    for _ in range(_CANDIDATES):
        if at < 0:
            return
        yield at
        at = twins.find(probe, at + 1)


def _strides(
    twins: Twins,
    lines: Lines,
    rest: Rectangle,
    row: int,
    end: int,
    place: int,
    found: list[Piece],
) -> Iterator[int]:
    """Yields the distances of the row below or above, if `row` stands at `place`."""
    if rest.bottom - rest.top == 1:
        yield rest.right - rest.left
        return
    likely = [rest.right - rest.left, lines.engine.shape[1], *(p.stride for p in found[-2:])]
    tried: set[int] = set()
    for next_to, way in ((row + 1, 1), (row - 1, -1)):
        if not rest.top <= next_to < rest.bottom:
            continue
        probe = lines.twin[next_to, rest.left : end].tobytes()
        if way > 0:
            near = twins.find(probe, place + 1, place + _REACH) - place
        else:
            near = place - twins.find_before(probe, max(0, place - _REACH), place)
        for stride in (*likely, near):
            if stride < end - rest.left or stride > _REACH or stride in tried:
                continue
            if _same(twins, lines, next_to, rest.left, end, place + way * stride):
                tried.add(stride)
                yield stride


def _grown(
    twins: Twins, lines: Lines, rest: Rectangle, row: int, place: int, stride: int
) -> Piece | None:
    """Returns the piece around `row`, which stands at `place`: as wide as this row stands there,
    then as high as its neighbours do; narrower where they are."""
    width = min(rest.right - rest.left, stride, twins.engine.size - place)
    one = Rectangle(row, row + 1, rest.left, rest.left + width)
    width = min(width, _equal(twins, lines, one, place, stride)[0])
    top, bottom = row, row + 1
    for way, border in ((1, rest.bottom), (-1, rest.top)):
        while (bottom if way > 0 else top) != border:
            count = max(1, _ROUND // width)
            first, last = (
                (bottom, min(border, bottom + count))
                if way > 0
                else (max(border, top - count), top)
            )
            at = place + (first - row) * stride
            part = Rectangle(first, last, rest.left, rest.left + width)
            equal = _equal(twins, lines, part, at, stride)
            equal = equal if way > 0 else equal[::-1]
            few = np.flatnonzero(equal < min(_RUN, rest.right - rest.left))
            stands = int(few[0]) if few.size else last - first
            if stands:
                width = min(width, int(equal[:stands].min()))
                top, bottom = (top, bottom + stands) if way > 0 else (top - stands, bottom)
            if stands < last - first:
                break
    if bottom - top == 1 < rest.bottom - rest.top:
        return None  # one row of many is no rectangle
    begin = place - (row - top) * stride
    return Piece(Rectangle(top, bottom, rest.left, rest.left + width), begin, stride)


def _equal(twins: Twins, lines: Lines, part: Rectangle, place: int, stride: int) -> np.ndarray:
    """Returns how many first bytes of each row of `part` stand where they should in both engines;
    its first row at `place`."""
    top, bottom, left, width = part.top, part.bottom, part.left, part.right - part.left
    count, size = bottom - top, twins.engine.size
    if place < 0 or place + (count - 1) * stride + width > size:
        starts = place + np.arange(count) * stride
        inside = np.flatnonzero((starts >= 0) & (starts + width <= size))
        equal = np.zeros(count, dtype=np.int64)
        if inside.size:
            first, last = int(inside[0]), int(inside[-1]) + 1
            at = place + first * stride
            inner = Rectangle(top + first, top + last, part.left, part.right)
            equal[first:last] = _equal(twins, lines, inner, at, stride)
        return equal
    differs = np.zeros((count, width), dtype=bool)
    for held, rows in ((twins.engine, lines.engine), (twins.twin, lines.twin)):
        laid = np.lib.stride_tricks.as_strided(held[place:], (count, width), (stride, 1))
        differs |= laid != rows[top:bottom, left : left + width]
    return np.where(differs.any(axis=1), differs.argmax(axis=1), width)
