"""The constants and the structure of an `.onnx` file, by the fields of onnx.proto.

Numbers lie in the file itself, or in files beside it (`external_data`: location, offset, length).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds, source, wire
from goldfold.golden.proof.stored import Contents, Stored, checked

_GRAPH = 2 << 30
"""Bytes of the largest message of protobuf."""

_KINDS = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
    21: "uint4", 22: "int4",
}  # fmt: skip
_SCHEMA: wire.Schema = {
    "Model": {
        1: ("ir_version", "int"), 2: ("producer_name", "text"), 3: ("producer_version", "text"),
        4: ("domain", "text"), 5: ("model_version", "int"), 6: ("doc_string", "bytes"),
        7: ("graph", "Graph"), 8: ("opset_import", "Opset"), 14: ("metadata_props", "Entry"),
        25: ("functions", "Function"),
    },
    "Graph": {
        1: ("node", "Node"), 2: ("name", "text"), 5: ("initializer", "Tensor"),
        10: ("doc_string", "bytes"), 11: ("input", "Value"), 12: ("output", "Value"),
        13: ("value_info", "Value"), 14: ("quantization_annotation", "bytes"),
        15: ("sparse_initializer", "bytes"), 16: ("metadata_props", "Entry"),
    },
    "Node": {
        1: ("input", "text"), 2: ("output", "text"), 3: ("name", "text"), 4: ("op_type", "text"),
        5: ("attribute", "Attribute"), 6: ("doc_string", "bytes"), 7: ("domain", "text"),
        8: ("overload", "text"), 9: ("metadata_props", "Entry"),
    },
    "Attribute": {
        1: ("name", "text"), 2: ("f", "float"), 3: ("i", "int"), 4: ("s", "bytes"),
        5: ("t", "Tensor"), 6: ("g", "Graph"), 7: ("floats", "floats"), 8: ("ints", "ints"),
        9: ("strings", "bytes"), 10: ("tensors", "Tensor"), 11: ("graphs", "Graph"),
        13: ("doc_string", "bytes"), 14: ("tp", "Type"), 15: ("type_protos", "Type"),
        20: ("type", "int"), 21: ("ref_attr_name", "text"), 22: ("sparse_tensor", "bytes"),
        23: ("sparse_tensors", "bytes"),
    },
    "Function": {
        1: ("name", "text"), 4: ("input", "text"), 5: ("output", "text"), 6: ("attribute", "text"),
        7: ("node", "Node"), 8: ("doc_string", "bytes"), 9: ("opset_import", "Opset"),
        10: ("domain", "text"), 11: ("attribute_proto", "Attribute"), 12: ("value_info", "Value"),
        13: ("overload", "text"), 14: ("metadata_props", "Entry"),
    },
    "Tensor": {
        1: ("dims", "ints"), 2: ("data_type", "int"), 4: ("float_data", "bytes"),
        5: ("int32_data", "ints"), 7: ("int64_data", "ints"), 8: ("name", "text"),
        9: ("raw_data", "bytes"), 10: ("double_data", "bytes"), 11: ("uint64_data", "ints"),
        12: ("doc_string", "bytes"), 13: ("external_data", "Entry"), 14: ("data_location", "int"),
        16: ("metadata_props", "Entry"),
    },
    "Value": {
        1: ("name", "text"), 2: ("type", "Type"), 3: ("doc_string", "bytes"),
        4: ("metadata_props", "Entry"),
    },
    "Type": {
        1: ("tensor_type", "TensorType"), 4: ("sequence_type", "Holding"),
        6: ("denotation", "text"), 9: ("optional_type", "Holding"),
    },
    "Holding": {1: ("elem_type", "Type")},
    "TensorType": {1: ("elem_type", "int"), 2: ("shape", "Shape")},
    "Shape": {1: ("dim", "Size")},
    "Size": {1: ("dim_value", "int"), 2: ("dim_param", "text"), 3: ("denotation", "text")},
    "Opset": {1: ("domain", "text"), 2: ("version", "int")},
    "Entry": {1: ("key", "text"), 2: ("value", "text")},
}  # fmt: skip
_NUMBERS = frozenset(
    {"float_data", "int32_data", "int64_data", "raw_data", "double_data", "uint64_data",
     "external_data", "data_location"}
)  # fmt: skip
_UNSAID = _NUMBERS | {
    "doc_string", "metadata_props", "value_info", "producer_name", "producer_version",
    "model_version",
}  # fmt: skip
"""Fields that change nothing of what is computed, and the numbers, which are checked themselves."""
_TYPED = {
    "float32": ("float_data", "<f4"), "float64": ("double_data", "<f8"),
    "int64": ("int64_data", "<i8"), "uint64": ("uint64_data", "<u8"),
    "uint32": ("uint64_data", "<u4"),
}  # fmt: skip
"""Where each kind's numbers lie if they are not raw bytes; all others are in int32_data, of which
float16 and bfloat16 take the lower 16 bits as they are."""


def structure(raw: bytes) -> str:
    """Returns the sha256 of the structure of a model in bytes, which may lack its numbers. Raises
    GoldenError."""
    model = wire.whole(raw, _SCHEMA, "Model", "a model")
    return Contents(structure=["onnx", *wire.text_of(model, _UNSAID)]).digest()


def read(path: Path) -> Contents:
    """Returns the constants and the structure of an `.onnx` file. Raises GoldenError."""
    contents = Contents()
    model = wire.whole(source.read_small(path, _GRAPH), _SCHEMA, "Model", path.name)
    files: dict[str, source.File] = {}
    for name, tensor in _tensors(model):
        contents.stored.append(_stored(path, name, tensor, files))
    contents.files = contents.opened = list(files.values())
    contents.structure = ["onnx", *wire.text_of(model, _UNSAID)]
    return contents


def _tensors(model: wire.Message) -> Iterator[tuple[str, wire.Message]]:
    """Yields every tensor with its name: initializers, and the attributes of nodes in graphs and
    functions, which have their node's first output and their own name."""
    waiting: list[Any] = [*model.get("graph", []), *model.get("functions", [])]
    while waiting:
        inside = waiting.pop()
        for tensor in inside.get("initializer", []):
            yield wire.one(tensor, "name", ""), tensor
        attributes = [("", a) for a in inside.get("attribute_proto", [])]
        for node in inside.get("node", []):
            output = next(iter(node.get("output", [])), "")
            attributes += [(output, a) for a in node.get("attribute", [])]
        for output, attribute in attributes:
            waiting += [*attribute.get("g", []), *attribute.get("graphs", [])]
            for tensor in (*attribute.get("t", []), *attribute.get("tensors", [])):
                yield output or wire.one(tensor, "name", ""), tensor


def _stored(path: Path, name: str, tensor: wire.Message, files: dict) -> Stored:
    shape = tuple(tensor.get("dims", []))
    code = wire.one(tensor, "data_type", 0)
    if min(shape, default=0) < 0 or len(shape) > 64:
        raise GoldenError(f"{path.name}: the constant {name[:200]!r} has the shape {shape[:64]}")
    kind = _KINDS.get(code, f"kind {code}")
    said = {
        wire.one(e, "key", ""): wire.one(e, "value", "") for e in tensor.get("external_data", [])
    }
    if wire.one(tensor, "data_location", 0) == 1 or said:
        return _external(path, Stored(name, kind, shape, 0), said, files)
    raw = wire.one(tensor, "raw_data", None)
    data = np.frombuffer(raw, np.uint8) if raw is not None else _typed(path, name, kind, tensor)
    return checked(Stored(name, kind, shape, data.size, data=data), path.name)


def _typed(path: Path, name: str, kind: str, tensor: wire.Message) -> np.ndarray:
    place, held = _TYPED.get(kind, ("int32_data", "<i4"))
    values = tensor.get(place, [])
    if place in ("float_data", "double_data"):  # packed, or a field each
        return np.frombuffer(b"".join(map(bytes, values)), np.uint8)
    try:
        wide = np.array(values, np.int64)
        if place == "int32_data":
            width = kinds.holder(kind).itemsize if kind in kinds.KINDS else 4
            return wide.astype(f"<u{width}").view(np.uint8)
        return (
            np.array([int(v) & ((1 << 64) - 1) for v in values], "<u8").astype(held).view(np.uint8)
        )
    except (OverflowError, ValueError):
        raise GoldenError(f"{path.name}: {name[:200]!r} has numbers beyond its kind") from None


def _external(path: Path, about: Stored, said: dict[str, str], files: dict) -> Stored:
    what = f"{path.name}: the constant {about.name[:200]!r}"
    place = said.get("location", "")
    if place not in files:
        files[place] = source.File(source.inside(path.parent, place, what), place)
    file = files[place]
    numbers = {key: said.get(key, "0") for key in ("offset", "length")}
    if not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers.values()):
        raise GoldenError(f"{what} has no place in {place}")
    offset = int(numbers["offset"])
    expected = kinds.size_of(about.kind, about.shape) if about.kind in kinds.KINDS else 0
    size = int(numbers["length"]) if "length" in said else expected
    return checked(Stored(about.name, about.kind, about.shape, size, file, offset), path.name)
