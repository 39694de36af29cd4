"""Protobuf messages without the package onnx, which an installation that only runs artifacts lacks:
the files that an `.onnx` file refers to, every message inside another, and the bytes of fields
(exporter/ir/external_data.py writes with them)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.system.files import read_bounded

MODEL = "model.onnx"
DATA = "model.onnx.data"

GRAPH_LIMIT = 64 << 20
"""The most bytes of a graph without its weights; EmbeddingGemma's has half a megabyte."""


HOLDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
    "Entry": {},
}
"""The messages of onnx.proto that lead to a tensor's `external_data`, by the number of their field
in the message around them."""
_OPSETS, _DOMAIN, _VERSION = 8, 1, 2
"""The field `opset_import` of a model, and the fields of each of its entries."""
_SHORT, _WORD = 5, (1 << 32) - 1
"""The most bytes of a field's number and of a length, as protobuf reads them; and 32 bits."""
_MESSAGES, DEPTH = 2_000_000, 100
"""The most messages that are read, and the most within each other."""
LOCATION, EXTERNAL = 14, 1
"""The field `data_location` of a tensor, and its value for data in another file."""


def references(path: Path) -> set[str]:
    """The files that hold constants of an `.onnx` file, by the names in it. A constant that lies in
    another file but names none gives "".

    Raises ArtifactError for a file that is no ONNX file, or is larger than GRAPH_LIMIT without its
    weights.
    """
    found: set[str] = set()
    seen = 0
    with _reading(path) as raw:
        waiting = [_inside("Model", raw)]  # depth first: few are open at a time
        while waiting:
            inner = next(waiting[-1], None)
            if inner is None:
                waiting.pop()
                continue
            if (seen := seen + 1) > _MESSAGES or len(waiting) > DEPTH:
                raise ValueError("it holds more than any model does")
            kind, message = inner
            if kind == "Tensor":
                found |= _places(message)
            else:
                waiting.append(_inside(kind, message))
    return found


def opset(path: Path) -> int | None:
    """The version of ONNX's own ops that an `.onnx` file asks for; None if it asks for none. Raises
    ArtifactError as `references` does."""
    found = None
    with _reading(path) as raw:
        for number, value in _fields(raw):
            if number == _OPSETS and isinstance(value, memoryview):
                entry = dict(_fields(value))
                version = entry.get(_VERSION)
                if not entry.get(_DOMAIN) and isinstance(version, int):
                    found = version
    return found


@contextmanager
def _reading(path: Path) -> Iterator[memoryview]:
    """Gives the bytes of a file, and turns what goes wrong with them into an ArtifactError."""
    try:
        yield memoryview(read_bounded(path, GRAPH_LIMIT))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"cannot read {path}: it is no file of ONNX: {error}") from None


def _inside(kind: str, message: memoryview) -> Iterator[tuple[str, memoryview]]:
    """Yields the messages in a message that lead to tensors, each with its kind."""
    for number, value in _fields(message):
        inner = HOLDS[kind].get(number)
        if inner is not None and isinstance(value, memoryview):
            yield inner, value


def _places(tensor: memoryview) -> set[str]:
    """Returns the files that a tensor names; "" for one that lies elsewhere and names none."""
    entries: list[tuple[str, str]] = []
    outside = False
    for number, value in _fields(tensor):
        if number == LOCATION and isinstance(value, int):
            outside = value & _WORD == EXTERNAL
        elif number in HOLDS["Tensor"] and isinstance(value, memoryview):
            entries.append(entry(value))
    if not outside and not entries:
        return set()
    return {place for key, place in entries if key == "location"} or {""}


def entry(message: memoryview) -> tuple[str, str]:
    """Returns key and value of an entry of `external_data`."""
    said = {1: "", 2: ""}
    for number, value in _fields(message):
        if number in said and isinstance(value, memoryview):
            said[number] = bytes(value).decode()
    return said[1], said[2]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message by number: each a number, or bytes that may be a message."""
    return ((number, value) for number, value, _ in fields(message))


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """Yields the fields of a message: number, value, and all bytes of the field. A value is a
    number, or bytes that may be a message. Raises ValueError or IndexError for what is no
    message."""
    at = 0
    while at < len(message):
        begin = at
        tag, at = _varint(message, at, _SHORT)
        if tag > _WORD:  # a parser that counts in 32 bits would read another field
            raise ValueError("the number of a field has more than 32 bits")
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value, message[begin:at]
        elif wire in (1, 2, 5):
            size, at = _varint(message, at, _SHORT) if wire == 2 else (8 if wire == 1 else 4, at)
            if size > len(message) - at:
                raise ValueError("it ends within a field")
            yield number, message[at : at + size], message[begin : at + size]
            at += size
        else:  # a group: ONNX has none
            raise ValueError(f"a field is of the wire type {wire}")


def _varint(message: memoryview, at: int, most: int = 10) -> tuple[int, int]:
    """Returns a number and the position after its last byte."""
    value = 0
    for shift in range(0, 7 * most, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"a number has more than {most} bytes")


def varint(value: int) -> bytes:
    """Returns a number from 0 as protobuf writes it."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def header(number: int, size: int) -> bytes:
    """Returns the bytes before the `size` bytes of a field of text, bytes or a message."""
    return varint(number << 3 | 2) + varint(size)


def field(number: int, value: int | bytes) -> bytes:
    """Returns a field: of a number from 0, or of bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return header(number, len(value)) + value


def messages(root: Any) -> Iterator[Any]:
    """A protobuf message and all messages inside it, also graphs in attributes and functions."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is None:
                continue
            if field.message_type.GetOptions().map_entry:
                value = [one for one in value.values() if hasattr(one, "ListFields")]
            waiting += [value] if hasattr(value, "ListFields") else value
