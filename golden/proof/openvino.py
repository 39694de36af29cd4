"""The constants and the structure of an OpenVINO model: an `.xml` file, whose layers of the type
Const say where their numbers lie in the `.bin` file beside it.

The XML is read as a stream: no entities, no document types, and bounds on size and depth.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.parsers import expat

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds, source
from goldfold.golden.proof.stored import Contents, Stored, checked

_BYTES, _DEPTH, _ELEMENTS = 256 << 20, 64, 8_000_000
_KINDS = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "boolean": "bool",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "i4": "int4",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "u4": "uint4",
}  # fmt: skip
_SAID = "runtime_options"
"""The one part of a model's notes that changes what is computed."""
_NUMBER = re.compile("[0-9]{1,18}")


def read(path: Path) -> Contents:
    """Returns the constants and the structure of a model. Raises GoldenError."""
    raw = source.read_small(path, _BYTES)
    beside = source.inside(path.parent, f"{path.stem}.bin", path.name)
    weights = source.File(beside, beside.name)
    reader = _Reader(path.name, weights)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.EntityDeclHandler = reader.refuse
    try:
        parser.Parse(raw, True)
    except expat.ExpatError as error:
        raise GoldenError(f"{path.name} is damaged: {error}") from None
    except (ValueError, KeyError) as error:
        raise GoldenError(f"{path.name} is damaged: {error}") from None
    reader.contents.files = reader.contents.opened = [weights]
    return reader.contents


class _Reader:
    """What the parser calls: `open` are the elements around the present one, `layers` the names of
    those that are constants, or ""."""

    def __init__(self, called: str, weights: source.File) -> None:
        self.called, self.weights = called, weights
        self.contents = Contents(structure=["openvino"])
        self._open: list[str] = []
        self._layers: list[str] = []
        self._elements = 0
        self._silent = 0

    def refuse(self, *_: object) -> None:
        raise ValueError("it declares a document type or an entity, which no model does")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > _ELEMENTS or len(self._open) >= _DEPTH:
            raise ValueError("it holds more than any model does")
        self._open.append(tag)
        if tag == "layer":
            constant = attributes.get("type") == "Const"
            self._layers.append(attributes.get("name", "") if constant else "\0")
        elif tag == "data" and "eps" in attributes:
            self.contents.epsilons.add(float(attributes["eps"]))
        elif tag == "data" and "approximation_mode" in attributes:
            self.contents.gelus[attributes["approximation_mode"].lower()] += 1
        elif tag == "data" and self._open[-2:-1] == ["layer"] and self._layers[-1] != "\0":
            self.contents.stored.append(self._stored(self._layers[-1], attributes))
            attributes = {k: v for k, v in attributes.items() if k != "offset"}
        notes = self._open[:2] == ["net", "rt_info"] and len(self._open) == 3 and tag != _SAID
        self._silent = self._silent or (len(self._open) if notes else 0)
        if not self._silent:
            said = "".join(f" {key}={attributes[key]!r}" for key in sorted(attributes))
            self.contents.structure.append(f"{' ' * len(self._open)}{tag}{said}")

    def end(self, tag: str) -> None:
        if self._silent == len(self._open):
            self._silent = 0
        self._open.pop()
        if tag == "layer":
            self._layers.pop()

    def text(self, said: str) -> None:
        if said.strip() and not self._silent:
            self.contents.structure.append(f"{' ' * len(self._open)} {said.strip()}")

    def _stored(self, name: str, said: dict[str, str]) -> Stored:
        sizes = [size.strip() for size in said.get("shape", "").split(",") if size.strip()]
        numbers = [*sizes, said.get("offset", ""), said.get("size", "")]
        if not all(_NUMBER.fullmatch(n) for n in numbers) or len(sizes) > 64:
            raise ValueError(f"the constant {name[:200]!r} has no shape or place")
        *shape, offset, size = map(int, numbers)
        kind = _KINDS.get(said.get("element_type", ""), said.get("element_type", "")[:20])
        if kind in kinds.KINDS and not size:
            size = kinds.size_of(kind, shape)
        stored = Stored(name, kind, tuple(shape), size, self.weights, offset)
        return checked(stored, self.called)
