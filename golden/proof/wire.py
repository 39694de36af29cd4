"""Protobuf messages, read by a table of their fields: every length is checked against what is
there, and the number and depth of messages is bounded."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

from goldfold.golden.errors import GoldenError

_DEPTH, _FIELDS = 64, 8_000_000
_WORD = (1 << 64) - 1

Schema = Mapping[str, Mapping[int, tuple[str, str]]]
"""Messages by name; each field by its number: name and type, which is int, float, double, text,
bytes, ints, floats, doubles (packed or not), or the name of a message. A field that is not listed
is kept as it is, under its number."""
Message = dict[str, list[Any]]
"""Fields by name, each with all its values in the order of the file."""


class Damaged(ValueError):
    """Bytes are no message of this kind."""


def read(raw: memoryview, schema: Schema, kind: str) -> Message:
    """Returns a message and all messages in it. Raises Damaged."""
    left = [_FIELDS]
    return _message(raw, schema, kind, 0, left)


def _message(raw: memoryview, schema: Schema, kind: str, depth: int, left: list[int]) -> Message:
    if depth > _DEPTH:
        raise Damaged(f"messages lie more than {_DEPTH} deep in each other")
    found: Message = {}
    table = schema[kind]
    for number, wire, value in fields(raw):
        left[0] -= 1
        if left[0] < 0:
            raise Damaged(f"it has more than {_FIELDS:,} fields")
        name, of = table.get(number, (f"field {number}", "unknown"))
        if of in schema:
            if wire != 2:
                raise Damaged(f"{name} is no message")
            found.setdefault(name, []).append(_message(value, schema, of, depth + 1, left))
        else:
            found.setdefault(name, []).extend(_values(of, wire, value, left))
    return found


def _values(of: str, wire: int, value: Any, left: list[int]) -> list[Any]:
    if of == "unknown":
        return [value if wire == 0 else bytes(value)]
    if of == "bytes" and wire != 0:
        return [value]
    if of == "text" and wire == 2:
        try:
            return [bytes(value).decode()]
        except UnicodeDecodeError:
            raise Damaged("a text is not UTF-8") from None
    if of in ("int", "ints"):
        numbers = [value] if wire == 0 else list(_packed(value, left)) if wire == 2 else None
        if numbers is not None and (wire == 0 or of == "ints"):
            return [n - (1 << 64) if n >> 63 else n for n in numbers]
    form, width = ("<f", 5) if of.startswith("float") else ("<d", 1)
    if of.rstrip("s") in ("float", "double") and (wire == width or (wire == 2 and of[-1] == "s")):
        size = struct.calcsize(form)
        left[0] -= len(value) // size
        if len(value) % size or left[0] < 0:
            raise Damaged("a list of numbers ends within one, or is too long")
        return [n for (n,) in struct.iter_unpack(form, value)]
    raise Damaged(f"a field of the type {of} is of the wire type {wire}")


def _packed(value: memoryview, left: list[int]) -> Iterator[int]:
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        left[0] -= 1
        if left[0] < 0:
            raise Damaged("a list of numbers is too long")
        yield number


def fields(raw: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yields number, wire type and value of each field: a number, or the bytes."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Damaged(f"a field has the number {number}")
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, wire, value
        elif wire in (1, 2, 5):
            size, at = _varint(raw, at) if wire == 2 else (8 if wire == 1 else 4, at)
            if size > len(raw) - at:
                raise Damaged("it ends within a field")
            yield number, wire, raw[at : at + size]
            at += size
        else:
            raise Damaged(f"a field is of the wire type {wire}")


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise Damaged("it ends within a number")
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & _WORD, at
    raise Damaged("a number has more than 10 bytes")


def one(message: Message, name: str, otherwise: Any) -> Any:
    """The last value of a field, as protobuf has it; `otherwise` if there is none."""
    return message.get(name, [otherwise])[-1]


def text_of(message: Message, without: frozenset[str], indent: str = "") -> Iterator[str]:
    """Yields a message as text, a line per field, sorted by name, without the fields named. The
    entries of a map, which have keys, are in the order of those."""
    for name in sorted(message.keys() - without):
        values = message[name]
        if values and isinstance(values[0], dict):
            for value in sorted(values, key=lambda v: str(v.get("key", ""))):
                yield f"{indent}{name}:"
                yield from text_of(value, without, indent + " ")
        else:
            plain = [bytes(v) if isinstance(v, memoryview) else v for v in values]
            yield f"{indent}{name} = {plain!r}"


def whole(raw: bytes | memoryview, schema: Schema, kind: str, called: str) -> Message:
    """Like `read`; raises GoldenError that names the file."""
    try:
        return read(memoryview(raw), schema, kind)
    except (Damaged, KeyError) as error:
        raise GoldenError(f"{called} is damaged: {error}") from None
