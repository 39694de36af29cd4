"""The value of an expression, some rows at a time: widened exactly, with float64 or int64 for
arithmetic.

Every function says which rows of its arguments a row of its value needs, so that a large table is
never held in float64. What only moves numbers leaves them as their file has them.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds
from goldfold.golden.proof.arithmetic import Part, apply, cast, joined, product
from goldfold.golden.proof.expressions import Call
from goldfold.golden.proof.source import Source

BLOCK = 1 << 19
"""Numbers that are evaluated at once."""
_MOST, _SHARED = 1 << 28, 1 << 20
"""Numbers of the largest value that is held whole in any way, and of the largest shared one that is
kept."""
_STEPS = 20_000
"""Calls that some rows of a constant may take: shared parts may hold each other."""


def rows_at_once(shape: Sequence[int], most: int = BLOCK) -> int:
    return max(1, most // max(1, math.prod(shape[1:])))


class Evaluator:
    """Evaluates expressions over the tensors of `source`. `chosen` gives the numbers that a digest
    stands for, as an artifact holds them."""

    def __init__(self, source: Source, chosen: Callable[[Call], np.ndarray]) -> None:
        self._source, self._chosen = source, chosen
        self._shapes: dict[Call, tuple[int, ...]] = {}
        self._kept: dict[Call, Part] = {}
        self._steps = 0

    def rows(self, x: Call, start: int, stop: int) -> Part:
        """Returns rows of the value of an expression; a scalar is one row. Raises GoldenError, or
        ValueError for arguments whose shapes do not fit each other."""
        self._steps = 0
        with np.errstate(all="ignore"):
            return self._rows(x, start, stop)

    def shape(self, x: Any) -> tuple[int, ...]:
        if not isinstance(x, Call):
            return ()
        if x not in self._shapes:
            found = tuple(int(size) for size in self._shape(x))
            if min(found, default=0) < 0 or math.prod(found) >= 1 << 40:
                raise GoldenError(f"{x.name} would have the shape {list(found)}")
            self._shapes[x] = found
        return self._shapes[x]

    def _shape(self, x: Call) -> Sequence[int]:
        args, of = x.args, [self.shape(a) for a in x.args]
        match x.name:
            case "tensor":
                return self._source.place(*args).shape
            case "literal" | "full" | "chosen" | "assumed":
                return args[1]
            case "arange":
                return (args[2],)
            case "transpose":
                if sorted(args[1:]) != list(range(len(of[0]))):
                    raise GoldenError(f"transpose of {list(of[0])} by {list(args[1:])}")
                return [of[0][axis] for axis in args[1:]]
            case "reshape":
                return _reshaped(of[0], args[1:])
            case "slice" | "pad":
                axis, first, last = _axis(args[1], of[0]), args[2], args[3]
                held = of[0][axis]
                if min(first, last) < 0 or (x.name == "slice" and not first <= last <= held):
                    raise GoldenError(f"{x.name} of {list(of[0])} takes {first} and {last}")
                size = last - first if x.name == "slice" else held + first + last
                return [*of[0][:axis], size, *of[0][axis + 1 :]]
            case "concat":
                axis = _axis(args[0], of[1])
                if len({(*shape[:axis], 0, *shape[axis + 1 :]) for shape in of[1:]}) > 1:
                    raise GoldenError(f"concat along axis {axis} of shapes that do not fit")
                return [*of[1][:axis], sum(s[axis] for s in of[1:]), *of[1][axis + 1 :]]
            case "take":
                axis = _axis(args[1], of[0])
                return [*of[0][:axis], *self._indices(x).shape, *of[0][axis + 1 :]]
            case "expand":
                return np.broadcast_shapes(of[0], args[1:]) if args[1:] else of[0]
            case "matmul":
                if [*map(len, of)] != [2, 2] or of[0][1] != of[1][0]:
                    raise GoldenError(f"matmul of {list(of[0])} and {list(of[1])}")
                return [of[0][0], of[1][1]]
            case "nearest" | "steps":
                (weights, scale), (bits, block) = of[:2], args[2:4]
                fits = len(weights) == len(scale) == 2 and weights[0] == scale[0] and block >= 0
                if not fits or (block or weights[1]) * scale[1] != weights[1] or not 2 <= bits <= 8:
                    raise GoldenError(f"{x.name} of {list(weights)} has scales {list(scale)}")
                return weights
            case "nibbles":
                return [*of[0][:-1], (of[0][-1] + 1) // 2]
            case "packed":
                return [*of[0][:-1], of[0][-1] - kinds.riders(of[0][-1], args[1])]
            case "clip" | "cast":
                return of[0]
        return np.broadcast_shapes(*of)

    def whole(self, x: Any) -> Part:
        shape = self.shape(x)
        if math.prod(shape) > _MOST:
            raise GoldenError(f"a part of it, {list(shape)}, is too large to be held whole")
        return self._rows(x, 0, shape[0] if shape else 1)

    def _rows(self, x: Any, start: int, stop: int) -> Part:
        if not isinstance(x, Call):
            return Part(np.array(x))
        self._steps += 1
        if self._steps > _STEPS:
            raise GoldenError(f"it takes more than {_STEPS:,} steps")
        shape = self.shape(x)
        keep = x.name == "literal" or (x.shared and x.name != "tensor")
        if not keep or math.prod(shape) > _SHARED:
            return self._make(x, shape, start, stop)
        if x not in self._kept:
            self._kept[x] = self._make(x, shape, 0, shape[0] if shape else 1)
        return self._kept[x].moved(lambda a: a[start:stop] if shape else a)

    def _make(self, x: Call, shape: tuple[int, ...], start: int, stop: int) -> Part:
        args = x.args
        rows = slice(start, stop) if shape else ...
        match x.name:
            case "tensor":
                raw = self._source.raw(*args)[rows]
                return Part(kinds.widen(raw, self._source.place(*args).kind, raw.shape))
            case "literal":
                return Part(literal(*args)[rows])
            case "full":
                return Part(np.broadcast_to(literal(args[0], (), (args[2],)), shape)[rows])
            case "chosen" | "assumed":
                return Part(self._chosen(x)[rows])
            case "arange":
                return Part(kinds.rounded(args[1] + args[3] * np.arange(start, stop), args[0]))
            case "transpose" if args[1:2] != (0,):
                return self.whole(args[0]).moved(lambda a: a.transpose(args[1:])[rows])
            case "transpose":
                return self._rows(args[0], start, stop).moved(lambda a: a.transpose(args[1:]))
            case "reshape":
                return self._reshape(args[0], shape, start, stop)
            case "slice" if _axis(args[1], shape) == 0:
                return self._rows(args[0], start + args[2], stop + args[2])
            case "slice":
                cut = (slice(None),) * _axis(args[1], shape) + (slice(args[2], args[3]),)
                return self._rows(args[0], start, stop).moved(lambda a: a[cut])
            case "pad" | "take" | "concat" | "expand":
                return self._spread(x, shape, start, stop)
            case "matmul":
                return product(self._rows(args[0], start, stop), self.whole(args[1]))
            case "cast":
                return cast(self._rows(args[0], start, stop), args[1])
            case "clip":
                return self._rows(args[0], start, stop).moved(lambda a: np.clip(a, *args[1:]))
            case "nearest":
                return self._nearest(x, start, stop)
            case "nibbles" | "packed":
                held = self._rows(args[0], start, stop)
                if held.error is not None and held.error.any():
                    raise GoldenError(f"{x.name} of integers that are not known exactly")
                packed = kinds.pack_nibbles if x.name == "nibbles" else kinds.pack
                return Part(packed(held.value, *args[1:]))
            case "steps":
                raise GoldenError("steps is no value: it stands where it can be undone")
        return apply(x.name, [self._aligned(a, shape, start, stop) for a in args])

    def _aligned(self, x: Any, shape: tuple[int, ...], start: int, stop: int) -> Part:
        """Returns what some rows of a result need of an argument that is broadcast."""
        own = self.shape(x)
        if len(own) == len(shape) and own and own[0] == shape[0]:
            return self._rows(x, start, stop)
        return self.whole(x)

    def _spread(self, x: Call, shape: tuple[int, ...], start: int, stop: int) -> Part:
        """Functions whose rows are rows of their argument along another axis than the first."""
        args = x.args
        if x.name == "expand":
            size = (stop - start, *shape[1:]) if shape else ()
            held = self._aligned(args[0], shape, start, stop)
            return held.moved(lambda a: np.broadcast_to(a, size))
        axis = _axis(args[0 if x.name == "concat" else 1], shape)
        if x.name == "concat" and axis:
            return joined([self._rows(one, start, stop) for one in args[1:]], axis)
        if x.name == "concat":
            found, first = [], 0
            for one in args[1:]:
                size = self.shape(one)[0]
                begin, end = (min(max(at - first, 0), size) for at in (start, stop))
                found += [self._rows(one, begin, end)] if begin < end else []
                first += size
            return joined(found, 0) if found else self._rows(args[1], 0, 0)
        rows = slice(start, stop)
        if x.name == "take" and not axis:
            return self._taken(x, start, stop)
        held = self._rows(args[0], start, stop) if axis else self.whole(args[0])
        if x.name == "take":
            indices = self._indices(x)
            return held.moved(lambda a: np.take(a, indices, axis))
        widths = [(0, 0)] * len(shape)
        widths[axis] = args[2:4]
        return held.moved(lambda a: np.pad(a, widths)[slice(None) if axis else rows])

    def _taken(self, x: Call, start: int, stop: int) -> Part:
        """Rows in another order: those between the first and the last of them are looked at."""
        indices = self._indices(x)[start:stop] % max(self.shape(x.args[0])[0], 1)
        first, last = (int(indices.min()), int(indices.max()) + 1) if indices.size else (0, 0)
        if (last - first) * math.prod(self.shape(x.args[0])[1:]) > _MOST:
            raise GoldenError(f"a part of it takes rows {first} to {last}, too many to be held")
        return self._rows(x.args[0], first, last).moved(lambda a: np.take(a, indices - first, 0))

    def _reshape(self, x: Any, shape: tuple[int, ...], start: int, stop: int) -> Part:
        """Rows of a result follow each other in C order, and so do the rows that hold them."""
        inner, width = self.shape(x), math.prod(shape[1:])
        row, size = math.prod(inner[1:]), (stop - start, *shape[1:]) if shape else ()
        first, last = (start * width, stop * width) if shape else (0, 1)
        begin, end = (first // row, -(-last // row)) if inner and row else (0, 1)
        cut = slice(first - begin * row, last - begin * row)
        return self._rows(x, begin, end).moved(lambda a: a.reshape(-1)[cut].reshape(size))

    def _indices(self, x: Call) -> np.ndarray:
        given, end = x.args[2], self.shape(x.args[0])[_axis(x.args[1], self.shape(x.args[0]))]
        found = self.whole(given).value if isinstance(given, Call) else np.array(given, np.int64)
        inside = not found.size or -end <= found.min() <= found.max() < end
        if found.dtype.kind not in "iu" or not inside:
            raise GoldenError(f"take has an index beyond {end}")
        return found

    def _nearest(self, x: Call, start: int, stop: int) -> Part:
        weights, scale = self.grid(x, start, stop)
        high = (1 << (x.args[2] - 1)) - 1
        low = -high if x.args[2] == 8 else -high - 1  # a mirror in 8 bits; else all there are

        def nearest(w: np.ndarray) -> np.ndarray:
            exact = w.astype(np.result_type(w, np.float32)) / scale
            return np.clip(np.rint(exact.astype(np.float32)), low, high) + 0  # an integer has no −0

        if weights.error is None:
            return Part(nearest(weights.value))
        ends = nearest(weights.wide - weights.error), nearest(weights.wide + weights.error)
        return Part(nearest(weights.wide), np.abs(ends[1] - ends[0]))

    def grid(self, x: Call, start: int, stop: int) -> tuple[Part, np.ndarray]:
        """Returns rows of the weights of `nearest` or `steps`, and the scale of each."""
        weights, scale = (self._rows(one, start, stop) for one in x.args[:2])
        if scale.error is not None:
            raise GoldenError(f"the scale of {x.name} is not known to the last bit")
        width = self.shape(x)[1]
        return weights, np.repeat(scale.value, x.args[3] or width, axis=1)[:, :width]


def literal(kind: str, shape: tuple[int, ...], data: Any) -> np.ndarray:
    """Returns the numbers of a literal: a list in C order, or "zlib:…" of its bytes in base64."""
    if isinstance(data, tuple):
        numbers = [float(n) if isinstance(n, str) else n for n in data]
        found = np.array(numbers, np.float64 if kind in kinds.FLOATS else np.int64)
        return kinds.rounded(found.reshape(shape), kind)
    expected = kinds.size_of(kind, shape)
    if not isinstance(data, str) or not data.startswith("zlib:") or expected > _MOST:
        raise GoldenError("a literal is neither a list of numbers nor packed, or is too large")
    try:
        held = base64.b64decode(data[5:], validate=True)
        raw = zlib.decompressobj().decompress(held, expected + 1)
    except (zlib.error, ValueError) as error:
        raise GoldenError(f"a packed literal is damaged: {error}") from None
    if len(raw) != expected:
        raise GoldenError(f"a packed literal is not of the {expected:,} bytes of its shape")
    return kinds.widen(np.frombuffer(raw, kinds.holder(kind)), kind, shape)


def _axis(axis: int, shape: Sequence[int]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise GoldenError(f"{list(shape)} has no axis {axis}")
    return axis % len(shape)


def _reshaped(shape: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known > 0:
        sizes = tuple(math.prod(shape) // known if size == -1 else size for size in sizes)
    if min(sizes, default=0) < 0 or math.prod(sizes) != math.prod(shape):
        raise GoldenError(f"reshape of {list(shape)} to {list(sizes)}")
    return sizes
