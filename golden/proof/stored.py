"""The constants of an artifact, as a reader of its format finds them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds
from goldfold.golden.proof.source import File

_PART = 1 << 24


@dataclass(frozen=True, eq=False)
class Stored:
    """A constant in a file of an artifact. `name` is the format's own; numbers that stand in the
    graph itself are `data`, others lie in `file` from `offset` on."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int
    file: File | None = None
    offset: int = 0
    data: np.ndarray | None = None
    """uint8 [size]."""
    spoken: bool = False
    """Whether the structure's text says the numbers as well, as it does those of attributes."""

    @property
    def count(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def where(self) -> str:
        if self.file is None:
            return "in the graph"
        return f"{self.file.called}, byte {self.offset:,}"

    def read(self, begin: int, size: int) -> np.ndarray:
        """Returns uint8 [size], from a byte of this constant on."""
        if self.data is not None:
            return self.data[begin : begin + size]
        assert self.file is not None
        return self.file.read(self.offset + begin, size)

    def numbers(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Returns [count] numbers from position `first` in C order on, exactly widened."""
        width, count = kinds.bits(self.kind), self.count if count is None else count
        begin, end = first * width // 8, ((first + count) * width + 7) // 8
        skipped = first - begin * 8 // width
        raw = self.read(begin, end - begin).view(kinds.holder(self.kind))
        return kinds.widen(raw, self.kind, (count + skipped,))[skipped:]

    def digest(self) -> str:
        """Returns the sha256 of the bytes, in hexadecimal."""
        found = hashlib.sha256()
        for begin in range(0, self.size, _PART):
            found.update(self.read(begin, min(_PART, self.size - begin)).data)
        return found.hexdigest()


@dataclass
class Contents:
    """What a reader found: constants; the text of the structure, line by line, without the numbers;
    and the files whose bytes are constants alone, which may hold nothing else."""

    stored: list[Stored] = field(default_factory=list)
    structure: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    opened: list[File] = field(default_factory=list)
    heads: list[tuple[File, int, int]] = field(default_factory=list)
    """Bytes of those files that are the format's own."""
    respelt: bool = False
    """Whether the format works sizes and tables out, so that a constant of the program may be there
    in parts alone: those follow from lines of their own."""
    gelus: Counter[str] = field(default_factory=Counter)
    """How many GELUs of the graph are computed by erf, and how many by tanh: two functions too near
    to one another for samples. Empty for formats whose structure is compared as it stands."""
    epsilons: set[float] = field(default_factory=set)
    """What the graph's norms add below their roots, where it is no constant of its own."""
    lost: list[tuple[str, str]] = field(default_factory=list)
    """Names of constants that an engine holds in no plain order, each with a sentence."""

    def unnamed(self) -> Iterator[tuple[File, int, int]]:
        """Yields first and last place of bytes of a file of constants that belong to none, other
        than zeros that align the next one."""
        for file in self.files:
            at, taken = 0, [(s.offset, s.offset + s.size) for s in self.stored if s.file is file]
            taken += [(begin, end) for one, begin, end in self.heads if one is file]
            for begin, end in [*sorted(taken), (file.size, file.size)]:
                if begin > at:
                    wide = begin - at > kinds.ALIGNED
                    if wide or file.read(at, begin - at).any():
                        yield file, at, begin
                at = max(at, end)

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.structure).encode("utf-8", "replace")).hexdigest()

    def close(self) -> None:
        """Raises GoldenError if a file changed since it was opened."""
        for file in self.opened:
            file.check_unchanged()
            file.close()


def checked(stored: Stored, what: str) -> Stored:
    """Returns a constant whose bytes are those of its kind and shape, and lie in its file. Raises
    GoldenError otherwise. A kind that is not known keeps its bytes, and follows from no line."""
    if stored.kind in kinds.KINDS and kinds.size_of(stored.kind, stored.shape) != stored.size:
        raise GoldenError(
            f"{what}: the constant {stored.name[:200]!r} has {stored.size:,} bytes, which is not "
            f"{stored.kind} {list(stored.shape)}"
        )
    end = stored.offset + stored.size
    if stored.file is not None and not 0 <= stored.offset <= end <= stored.file.size:
        raise GoldenError(
            f"{stored.file.called} is cut: the constant {stored.name[:200]!r} lies beyond its end"
        )
    return stored
