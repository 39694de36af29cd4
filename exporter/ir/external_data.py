"""The weights of an `.onnx` file elsewhere: in the file itself, or in files of other names.

A tensor says `location`, `offset` and `length` of its bytes in another file. `place` writes the
graph with other such entries, or with the bytes in place of them (`raw_data`). Weights are copied
from file to file and never held; the package onnx is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.errors import ArtifactError, OutputError
from goldfold.exporter.ir import protobuf
from goldfold.exporter.ir.protobuf import GRAPH_LIMIT, field, fields, header, varint
from goldfold.exporter.system.files import read_bounded

_RAW_DATA, _EXTERNAL_DATA = 9, 13
_BLOCK = 1 << 24
_PAGE = 1 << 16
"""The granularity in bytes at which every system maps a file into memory."""


@dataclass(frozen=True)
class Span:
    """Bytes of a file beside the graph."""

    file: str
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


Piece = bytes | memoryview | Span
Place = Callable[[Span], Span | None]
"""Maps where a tensor's bytes lie to where they will lie; None is the graph itself."""


def read(path: Path) -> bytes:
    """Returns an `.onnx` file without the weights that lie beside it. Raises ArtifactError if it
    is none."""
    protobuf.references(path)
    return read_bounded(path, GRAPH_LIMIT)


def spans(graph: bytes, folder: Path) -> tuple[Span, ...]:
    """Returns the places of the weights of a graph that lies in `folder`, in the order of the
    graph. Raises ArtifactError for bytes that no file there holds."""
    found: list[Span] = []

    def note(span: Span) -> Span:
        found.append(span)
        return span

    rewritten(graph, note)
    sizes: dict[str, int] = {}
    for span in found:
        file = folder / span.file
        if span.file not in sizes:
            if Path(span.file).name != span.file or not file.is_file():
                raise ArtifactError(f"{folder} is damaged: its graph names the file {span.file!r}")
            sizes[span.file] = file.stat().st_size
        if span.end > sizes[span.file]:
            raise ArtifactError(
                f"{file} is damaged: it has {sizes[span.file]} bytes, and its graph reads up to "
                f"{span.end}"
            )
    return tuple(found)


def rewritten(graph: bytes, place: Place) -> list[Piece]:
    """Returns the graph in pieces, with every tensor's bytes where `place` puts them."""
    try:
        return _message("Model", memoryview(graph), place, 0)
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"the graph is no file of ONNX: {error}") from None


def _message(kind: str, message: memoryview, place: Place, depth: int) -> list[Piece]:
    if depth > protobuf.DEPTH:
        raise ValueError("it holds more than any model does")
    made: list[Piece] = []
    for number, value, whole in fields(message):
        inner = protobuf.HOLDS[kind].get(number)
        if inner is None or not isinstance(value, memoryview):
            made.append(whole)
        elif inner == "Tensor":
            tensor = _tensor(value, place)
            made += [whole] if tensor is None else [header(number, size(tensor)), *tensor]
        else:
            under = _message(inner, value, place, depth + 1)
            made += [header(number, size(under)), *under]
    return made


def _tensor(message: memoryview, place: Place) -> list[Piece] | None:
    """Returns a tensor whose bytes lie elsewhere from now on; None for one that stays as it is."""
    kept: list[Piece] = []
    entries: dict[str, str] = {}
    outside = False
    for number, value, whole in fields(message):
        if number == protobuf.LOCATION and isinstance(value, int):
            outside = value == protobuf.EXTERNAL
        elif number == _EXTERNAL_DATA and isinstance(value, memoryview):
            entries.update([protobuf.entry(value)])
        else:
            kept.append(whole)
    if not outside:
        return None
    if not {"location", "offset", "length"} <= entries.keys():
        raise ValueError("a tensor does not say where its bytes begin and end")
    old = Span(entries["location"], int(entries["offset"]), int(entries["length"]))
    if min(old.offset, old.length) < 0:
        raise ValueError("a tensor's bytes begin before its file")
    new = place(old)
    if new is None:
        return [*kept, header(_RAW_DATA, old.length), old]
    if new == old:
        return None
    said = {"location": new.file, "offset": str(new.offset), "length": str(new.length)}
    kept += [
        field(_EXTERNAL_DATA, field(1, key.encode()) + field(2, text.encode()))
        for key, text in said.items()
    ]
    return [*kept, varint(protobuf.LOCATION << 3) + varint(protobuf.EXTERNAL)]


def size(pieces: Sequence[Piece]) -> int:
    """Returns the bytes of a file of these pieces."""
    return sum(one.length if isinstance(one, Span) else len(one) for one in pieces)


def write(pieces: Sequence[Piece], folder: Path, file: Path) -> None:
    """Write a new file of these pieces, whose spans lie in `folder`. Raises OutputError if it
    cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as out:
            for one in pieces:
                if isinstance(one, Span):
                    out.writelines(_blocks(folder, one))
                else:
                    out.write(one)
    except OSError as error:
        raise OutputError(f"cannot write {file.name}: {error.strerror}; make room") from None


def _blocks(folder: Path, span: Span) -> Iterator[bytes]:
    with (folder / span.file).open("rb") as source:
        source.seek(span.offset)
        left = span.length
        while left:
            block = source.read(min(left, _BLOCK))
            if not block:
                raise ArtifactError(f"{folder / span.file} is damaged: it ends too early")
            left -= len(block)
            yield block


def chunks(found: Sequence[Span], limit: int) -> tuple[Span, ...]:
    """Returns consecutive parts of the weights' file, of at most `limit` bytes each, so that every
    tensor lies in one of them, and as aligned as it was. Raises ArtifactError for a tensor beyond
    the limit, or for weights in several files."""
    if len({span.file for span in found}) > 1:
        raise ArtifactError("the graph has weights in several files; export it again")
    parts: list[Span] = []
    for span in sorted(set(found), key=lambda one: (one.offset, one.end)):
        begin = span.offset - span.offset % _PAGE
        if parts and max(span.end, parts[-1].end) - parts[-1].offset <= limit:
            begin, end = parts[-1].offset, max(span.end, parts.pop().end)
        else:
            end = span.end
        if end - begin > limit:
            raise ArtifactError(
                f"a tensor has {span.length} bytes, and one file holds {limit}; export a smaller "
                "precision, such as int8"
            )
        parts.append(Span(span.file, begin, end - begin))
    return tuple(parts)
