"""The constants of a traced graph are found in the source's files, by their contents.

A trace says little about where a constant comes from: torch renames, transposes, splits and adds.
Contents say it for certain. A constant that equals a tensor bit by bit, as it is, widened,
transposed, or a run of its rows, follows from that tensor, whatever made it; one that is several
tensors below each other follows from these. Where several equal it, they are the same numbers, and
the one with the most similar name is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.weights import Tensor, read_header
from goldfold.exporter.ir import derivation
from goldfold.exporter.ir.derivation import Expr, cast, chosen, literal, reshape
from goldfold.exporter.ir.program import Program, mark_makers, set_derivation, where

_TYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
}  # fmt: skip
_CHUNK = 1 << 22
"""Numbers that are compared at once."""
_HEAD = 64
"""Numbers that are compared first: they tell nearly all unequal arrays apart."""
_KEY = 16
"""Numbers by which a matrix is looked up."""
_LISTED = 64
"""Whole numbers of the shortest list that is taken for a tensor: shorter ones are axes and sizes,
which a tensor may hold by chance."""
_MOST = 1 << 18
"""Numbers of the largest literal."""


@dataclass(frozen=True)
class _Held:
    """A tensor of the source."""

    file: str
    tensor: Tensor
    array: np.ndarray

    @property
    def expr(self) -> Expr:
        return derivation.tensor(self.file, self.tensor.name)


def derive(program: Program, source: Source) -> None:
    """Record for every constant of a traced program how it follows from the source's tensors.

    What equals no tensor is a literal of the trace: sizes, frequencies, and what the trace computed
    from weights in a way that is not known here. But where a tensor of the same shape is left over,
    the constant ought to be that tensor: its derivation says so, and the proof of the artifact will
    name the numbers that differ. Changes `program`; one that has derivations is left as it is.
    """
    if program.derived:
        return
    tensors = _Tensors(source)
    constants = {
        name: value.const_value
        for name, value in program.graph.initializers.items()
        if value.const_value is not None
    }
    found = {name: tensors.equal(name, tensor.numpy()) for name, tensor in constants.items()}
    for name, tensor in constants.items():
        value, how = program.graph.initializers[name], found[name]
        if how is None and (held := tensors.meant(name, tensor.numpy())) is not None:
            how, reader = held[0], next(iter(value.uses()), None)
            module = "" if reader is None else where(reader.node)
            program.suspects += ((module, held[1]),)
        set_derivation(value, how or _own(tensor.numpy()))
    mark_makers(program.graph, "trace")
    program.derived = True


def _own(array: np.ndarray) -> Expr:
    """The derivation of numbers that equal no tensor: literals; known by their digest alone where
    there are more than a file should repeat, as a table of positions that the model computes."""
    return literal(array) if array.size <= _MOST else chosen(array, "assumed")


class _Tensors:
    def __init__(self, source: Source) -> None:
        self._all = [held for path in source.tensors for held in _read(source.loads, path)]
        self._used: set[str] = set()
        self._sized: dict[int, list[_Held]] = {}
        for held in self._all:
            self._sized.setdefault(held.array.size, []).append(held)
        self._pieces: dict[tuple[int, bytes], list[_Piece]] = {}
        """The matrices that may stand below others, by their width and first numbers in f32."""

    def equal(self, name: str, array: np.ndarray) -> Expr | None:
        """The derivation of a floating array that equals tensors; None if it equals none."""
        if array.dtype == np.int64 and array.size >= _LISTED and not _counts(array):
            return self._listed(array)
        if array.dtype.kind != "f" or array.size < 2:
            return None
        for find in (self._whole, self._rows, self._raised, self._stacked):
            found = find(name, array)
            if found is not None:
                return found
        return None

    def meant(self, name: str, array: np.ndarray) -> tuple[Expr, str] | None:
        """The derivation, and the tensor, of an array that equals no tensor, and has the shape and
        a part of the name of one that no constant equals. Call it when all others are found."""
        if array.dtype.kind != "f" or array.size < 2:
            return None
        free = [h for h in self._sized.get(array.size, []) if h.tensor.name not in self._used]
        free = [h for h in free if array.shape in (h.array.shape, h.array.shape[::-1])]
        held = max(free, key=lambda held: _shared(name, held.tensor.name), default=None)
        if held is None or not _shared(name, held.tensor.name):
            return None
        if held.array.shape == array.shape and array.shape != array.shape[::-1]:
            return _widened(held, array.dtype), held.tensor.name
        turned = tuple(reversed(range(array.ndim)))
        return Expr("transpose", (_widened(held, array.dtype), *turned)), held.tensor.name

    def _listed(self, array: np.ndarray) -> Expr | None:
        """A tensor of whole numbers, as the row of a table that each token has."""
        for held in self._sized.get(array.size, []):
            whole = held.array.dtype.kind == "i"
            if whole and np.array_equal(held.array.reshape(-1), array.reshape(-1)):
                same = held.array.dtype == array.dtype
                found = held.expr if same else cast(held.expr, array.dtype)
                return _shaped(found, held.array.shape, array.shape)
        return None

    def _whole(self, name: str, array: np.ndarray) -> Expr | None:
        """A tensor as it is, or transposed."""
        alike = [h for h in self._sized.get(array.size, []) if _is_weight(h.array)]
        for held in sorted(alike, key=lambda held: -_likeness(name, held.tensor.name)):
            flat = held.array.shape == array.shape or 1 in (held.array.ndim, array.ndim)
            if (flat or _squeezed(held.array) == _squeezed(array)) and _same(array, held.array):
                self._used.add(held.tensor.name)
                return _shaped(_widened(held, array.dtype), held.array.shape, array.shape)
            turned = held.array.shape == array.shape[::-1] and array.ndim == 2
            if turned and _same(array.T, held.array):
                self._used.add(held.tensor.name)
                return Expr("transpose", (_widened(held, array.dtype), 1, 0))
        return None

    def _rows(self, name: str, array: np.ndarray) -> Expr | None:
        """A run of a tensor's rows, perhaps transposed: one part of a fused projection."""
        for turned in (False, True) if array.ndim == 2 else (False,):
            wanted = array.T if turned else array
            for held in sorted(self._all, key=lambda held: -_likeness(name, held.tensor.name)):
                start = _run(wanted, held.array)
                if start is not None:
                    self._used.add(held.tensor.name)
                    rows = (_widened(held, array.dtype), 0, start, start + len(wanted))
                    found = Expr("slice", rows)
                    return Expr("transpose", (found, 1, 0)) if turned else found
        return None

    def _raised(self, name: str, array: np.ndarray) -> Expr | None:
        """1 + a tensor, rounded to f32: the gain of Gemma's norms."""
        for held in self._sized.get(array.size, []):
            wide = held.array.reshape(array.shape).astype(np.float32)
            if array.dtype == np.float32 and _same(array, np.float32(1) + wide):
                self._used.add(held.tensor.name)
                one = literal(np.float32(1))
                summed = cast(Expr("add", (one, _widened(held, array.dtype))), array.dtype)
                return _shaped(summed, held.array.shape, array.shape)
        return None

    def _stacked(self, name: str, array: np.ndarray) -> Expr | None:
        """Tensors below each other, or side by side, as the experts of one layer."""
        if array.ndim != 2 or array.dtype != np.float32:
            return None
        for turned in (True, False):
            wanted = array.T if turned else array
            parts: list[_Piece] = []
            at = 0
            while at < len(wanted):
                piece = self._piece(name, wanted[at:])
                if piece is None:
                    break
                parts.append(piece)
                at += len(piece.rows)
            else:
                self._used |= {part.held.tensor.name for part in parts}
                exprs = [part.expr(array.dtype) for part in parts]
                whole = exprs[0] if len(exprs) == 1 else Expr("concat", (0, *exprs))
                return Expr("transpose", (whole, 1, 0)) if turned else whole
        return None

    def _piece(self, name: str, wanted: np.ndarray) -> _Piece | None:
        """The matrix that some rows begin with; the one of the most similar name."""
        if not self._pieces:
            for piece in (piece for held in self._all for piece in _matrices(held)):
                self._pieces.setdefault(_beginning(piece.rows), []).append(piece)
        alike = self._pieces.get(_beginning(wanted), [])
        for piece in sorted(alike, key=lambda piece: -_shared(name, piece.held.tensor.name)):
            rows = len(piece.rows)
            if rows <= len(wanted) and _same(wanted[:rows], piece.rows):
                return piece
        return None


@dataclass(frozen=True)
class _Piece:
    """A tensor of the source as a matrix."""

    held: _Held
    rows: np.ndarray
    turned: bool
    """Whether its last two axes have changed places."""

    def expr(self, dtype: np.dtype) -> Expr:
        found, shape = _widened(self.held, dtype), self.held.array.shape
        if self.turned:
            rank = len(shape)
            found = Expr("transpose", (found, *range(rank - 2), rank - 1, rank - 2))
        return found if len(shape) == 2 else reshape(found, self.rows.shape)


def _matrices(held: _Held) -> Iterator[_Piece]:
    """A tensor [N,D] or [E,N,D] as the matrices [E·N,D] and [E·D,N]."""
    array = held.array
    if array.ndim in (2, 3) and array.size and array.dtype.kind != "i":
        for turned, moved in ((False, array), (True, array.swapaxes(-1, -2))):
            yield _Piece(held, moved.reshape(-1, moved.shape[-1]), turned)


def _beginning(rows: np.ndarray) -> tuple[int, bytes]:
    """What equal matrices have in common: their width, and the first numbers of the first row."""
    return rows.shape[1], rows[0, :_KEY].astype(np.float32).tobytes()


def _counts(array: np.ndarray) -> bool:
    """Whether whole numbers are those from 0 on: positions, which targets spell as they like."""
    return bool(np.array_equal(array.reshape(-1), np.arange(array.size)))


def _is_weight(array: np.ndarray) -> bool:
    """Whether an array may be weights: floating, or the bytes of a table of model2vec."""
    return array.dtype.kind != "i" or array.dtype.itemsize == 1


def _read(folder: Path, path: Path) -> Iterator[_Held]:
    raw = np.asarray(np.memmap(path, np.uint8, "r"))
    for tensor in read_header(path):
        kind = _TYPES.get(tensor.dtype)
        if kind is not None:
            view = np.require(raw[tensor.begin : tensor.end].view(kind), requirements="A")
            array = view.reshape(tensor.shape)
            yield _Held(path.relative_to(folder).as_posix(), tensor, array)


def _widened(held: _Held, dtype: np.dtype) -> Expr:
    """The tensor in the type of the trace; every f16 and bf16 number is one of f32."""
    narrow = held.array.dtype.itemsize > dtype.itemsize
    return cast(held.expr, dtype) if narrow or held.array.dtype.kind == "i" else held.expr


def _shaped(x: Expr, old: tuple[int, ...], new: tuple[int, ...]) -> Expr:
    return x if old == new else reshape(x, new)


def _squeezed(array: np.ndarray) -> tuple[int, ...]:
    return tuple(size for size in array.shape if size != 1)


def _shared(name: str, other: str) -> int:
    """The number of parts that two dotted names share."""
    return len(set(name.split(".")) & set(other.split(".")))


def _likeness(name: str, other: str) -> int:
    """The number of trailing parts that two dotted names share."""
    count = 0
    for one, two in zip(reversed(name.split(".")), reversed(other.split(".")), strict=False):
        if one != two:
            break
        count += 1
    return count


def _same(array: np.ndarray, held: np.ndarray) -> bool:
    """Whether two arrays are the same numbers in the type of the first, to the bit; reads as little
    as possible."""
    a, b = array.reshape(-1), held.reshape(-1)
    bits = np.dtype(f"u{array.dtype.itemsize}")
    for start in range(0, a.size, _CHUNK):
        ours, theirs = a[start : start + _CHUNK], b[start : start + _CHUNK]
        for part in (slice(_HEAD), slice(None)):
            with np.errstate(over="ignore"):
                there = theirs[part].astype(array.dtype, copy=False)
            if not np.array_equal(np.ascontiguousarray(ours[part]).view(bits), there.view(bits)):
                return False
    return True


def _run(wanted: np.ndarray, held: np.ndarray) -> int | None:
    """The row of `held` at which `wanted` begins; None if it is no run of its rows."""
    if not wanted.ndim or held.ndim != wanted.ndim or held.shape[1:] != wanted.shape[1:]:
        return None
    if len(held) <= len(wanted):
        return None
    heads = held[: len(held) - len(wanted) + 1].reshape(len(held) - len(wanted) + 1, -1)
    first = np.asarray(wanted).reshape(len(wanted), -1)[0, :_HEAD]
    starts = np.flatnonzero((heads[:, : first.size].astype(wanted.dtype) == first).all(axis=1))
    rows = (int(start) for start in starts)
    return next((row for row in rows if _same(wanted, held[row : row + len(wanted)])), None)
