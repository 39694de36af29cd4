"""Reading without surprises: a file that is cut or replaced meanwhile is an error in one line,
never a signal, and the tensors of a model's safetensors files are read by their names."""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds

_PART = 1 << 24
"""Bytes that are asked for at once."""
_HEADER = 100_000_000
"""Bytes of the longest header that the format allows."""
_KEPT = 1 << 30
"""Bytes of tensors that stay in memory; one alone may be larger."""
_KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip


class File:
    """A file that is read by places. `size` is its length when it was opened; a read beyond what is
    there then, or a change, raises GoldenError."""

    def __init__(self, path: Path, called: str | None = None) -> None:
        self.path, self.called = path, called or str(path)
        try:
            self._handle = path.open("rb", buffering=0)
            self._stamp = self._now()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise GoldenError(f"cannot read {self.called}: {why}") from None
        self.size = self._stamp[0]

    def _now(self) -> tuple[int, int, int]:
        found = os.fstat(self._handle.fileno())
        return found.st_size, found.st_mtime_ns, found.st_ino

    def read(self, offset: int, size: int) -> np.ndarray:
        """Returns uint8 [size], the bytes from `offset` on."""
        if not 0 <= offset <= offset + size <= self.size:
            raise GoldenError(
                f"{self.called} is cut: bytes {offset:,} to {offset + size:,} are asked for, "
                f"and it has {self.size:,}"
            )
        held = np.empty(size, np.uint8)
        view, done = held.data, 0
        try:
            self._handle.seek(offset)
            while done < size:
                got = self._handle.readinto(view[done : done + _PART])
                if not got:
                    raise GoldenError(f"{self.called} was cut while it was read; do it again")
                done += got
        except OSError as error:
            raise GoldenError(f"cannot read {self.called}: {error.strerror}") from None
        return held

    def check_unchanged(self) -> None:
        """Raises GoldenError if the file is another one, or has other contents, than when it was
        opened."""
        try:
            there = self.path.stat()
            now = (there.st_size, there.st_mtime_ns, there.st_ino)
        except OSError:
            now = None
        if now != self._stamp or self._now() != self._stamp:
            raise GoldenError(f"{self.called} changed while it was read; do it again")

    def close(self) -> None:
        self._handle.close()


def read_small(path: Path, most: int, called: str | None = None) -> bytes:
    """Returns the bytes of a whole file. Raises GoldenError for one of more than `most` bytes."""
    file = File(path, called)
    try:
        if file.size > most:
            raise GoldenError(f"{file.called} has {file.size:,} bytes, more than {most:,}")
        return file.read(0, file.size).tobytes()
    finally:
        file.close()


def inside(folder: Path, name: str, what: str, links: bool = False) -> Path:
    """Returns the path of a file below a folder. Raises GoldenError for a name that leads out, and
    unless `links` are allowed, as in a hub's cache, for a link that does."""
    pure = PurePosixPath(name)
    wrong = not pure.parts or pure.is_absolute() or ".." in pure.parts or set(name) & {"\\", "\0"}
    try:
        wrong = wrong or not (links or (folder / pure).resolve().is_relative_to(folder.resolve()))
    except (OSError, RuntimeError):  # a name beyond the system's, or links in a circle
        wrong = True
    if wrong:
        raise GoldenError(f"{what} names the file {name[:80]!r}, which is no place in its folder")
    return folder / pure


@dataclass(frozen=True, slots=True)
class _Place:
    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


class Source:
    """The tensors of a model's folder. `close` checks that no file changed since it was opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[File, dict[str, _Place]]] = {}
        self._kept: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def place(self, file: str, name: str) -> _Place:
        """Returns what a tensor is and where it lies."""
        if file not in self._files:
            opened = File(
                inside(self._folder, file, "a derivation", links=True), f"the source's {file}"
            )
            self._files[file] = (opened, _tensors(opened))
        found = self._files[file][1].get(name)
        if found is None:
            raise GoldenError(f"the source's {file} has no tensor {name[:200]!r}")
        return found

    def raw(self, file: str, name: str) -> np.ndarray:
        """Returns a tensor's numbers as they lie in the file, in its shape."""
        place, key = self.place(file, name), (file, name)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        while self._kept and place.size + sum(a.nbytes for a in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)
        held = self._files[file][0].read(place.offset, place.size)
        self._kept[key] = held.view(kinds.holder(place.kind)).reshape(place.shape)
        return self._kept[key]

    def close(self) -> None:
        self._kept.clear()
        for file, _ in self._files.values():
            file.check_unchanged()
            file.close()


def _tensors(file: File) -> dict[str, _Place]:
    """Returns the tensors of a safetensors file: eight bytes of length, JSON, then numbers."""
    try:
        if file.size < 8:
            raise ValueError("it has no header")
        length = int(file.read(0, 8).view("<u8")[0])
        if length > min(_HEADER, file.size - 8):
            raise ValueError(f"its header would have {length:,} bytes")
        header = json.loads(file.read(8, length).tobytes().decode())
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
        begin = 8 + length
        return {
            name: _place(name, entry, begin, file.size)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GoldenError(f"{file.called} is no safetensors file: {error}") from None


def _place(name: str, entry: dict, begin: int, size: int) -> _Place:
    kind, shape = _KINDS.get(entry["dtype"], ""), entry["shape"]
    first, last = entry["data_offsets"]
    if not isinstance(shape, Sequence) or not all(_is_count(n) for n in (*shape, first, last)):
        raise ValueError(f"{name[:80]!r} has no shape or place")
    if not kind:  # known to the format, and to no derivation
        return _Place(str(entry["dtype"]), tuple(shape), begin + first, last - first)
    expected = math.prod(shape) * kinds.bits(kind) // 8
    if last - first != expected or begin + last > size:
        raise ValueError(f"{name[:80]!r} lies beyond its end, or is not of its shape's size")
    return _Place(kind, tuple(shape), begin + first, expected)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 62
