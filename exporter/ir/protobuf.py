"""A reader of protobuf messages: the files that an `.onnx` file refers to, and every message inside
another. The package onnx is not needed, so an installation that only runs artifacts has it too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.system.files import read_bounded

MODEL = "model.onnx"
DATA = "model.onnx.data"

GRAPH_LIMIT = 64 << 20
"""The most bytes of a graph without its weights; EmbeddingGemma's has half a megabyte."""


_HOLDS: dict[str, dict[int, str]] = {
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
_LOCATION, _EXTERNAL = 14, 1
"""The field `data_location` of a tensor, and its value for data in another file."""


def references(path: Path) -> set[str]:
    """The files that hold constants of an `.onnx` file, by the names in it. A constant that lies in
    another file but names none gives "".

    Raises ArtifactError for a file that is no ONNX file, or is larger than GRAPH_LIMIT without its
    weights.
    """
    try:
        raw = read_bounded(path, GRAPH_LIMIT)
        found: set[str] = set()
        waiting = [("Model", memoryview(raw))]
        while waiting:
            kind, message = waiting.pop()
            entries: list[tuple[str, str]] = []
            outside = False
            for number, value in _fields(message):
                inside = _HOLDS[kind].get(number)
                if kind == "Tensor" and number == _LOCATION:
                    outside = value == _EXTERNAL
                elif inside == "Entry" and isinstance(value, memoryview):
                    entries.append(_entry(value))
                elif inside is not None and isinstance(value, memoryview):
                    waiting.append((inside, value))
            if outside or entries:
                found |= {place for key, place in entries if key == "location"} or {""}
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"cannot read {path}: it is no file of ONNX: {error}") from None
    return found


def _entry(message: memoryview) -> tuple[str, str]:
    said = {1: "", 2: ""}
    for number, value in _fields(message):
        if number in said and isinstance(value, memoryview):
            said[number] = bytes(value).decode()
    return said[1], said[2]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message by number: each a number, or bytes that may be a message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire in (1, 2, 5):
            size, at = _varint(message, at) if wire == 2 else (8 if wire == 1 else 4, at)
            if size > len(message) - at:
                raise ValueError("it ends within a field")
            yield number, message[at : at + size]
            at += size
        else:  # a group: ONNX has none
            raise ValueError(f"a field is of the wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Returns a number and the position after its last byte."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has more than ten bytes")


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
