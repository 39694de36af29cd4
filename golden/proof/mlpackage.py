"""The constants and the structure of an `.mlpackage`: `Manifest.json` names a protobuf message,
whose ML program holds constants itself or refers to blobs of a file of weights.

A blob is 64 bytes that begin with a mark, a kind, a size and a place, and its numbers at that
place. All integers are little-endian.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds, source, wire
from goldfold.golden.proof.stored import Contents, Stored, checked

_MANIFEST, _MODEL = 1 << 20, 512 << 20
_MARK, _HEAD = 0xDEADBEEF, 64
_AT = "@model_path/"

_KINDS = {
    1: "bool", 10: "float16", 11: "float32", 12: "float64", 13: "bfloat16",
    21: "int8", 22: "int16", 23: "int32", 24: "int64", 25: "int4",
    31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4",
}  # fmt: skip
_BLOBS = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 5: "bfloat16", 6: "int16", 7: "uint16",
    8: "int4", 11: "uint4", 14: "int32", 15: "uint32",
}  # fmt: skip
"""The kinds of a file of weights, which has numbers of its own."""

_NAMED = {1: ("key", "text"), 2: ("value", "Value")}
_SCHEMA: wire.Schema = {
    "Model": {
        1: ("specificationVersion", "int"), 2: ("description", "bytes"), 10: ("isUpdatable", "int"),
        502: ("mlProgram", "Program"),
    },
    "Program": {
        1: ("version", "int"), 2: ("functions", "NamedFunction"), 3: ("docString", "bytes"),
        4: ("notes", "bytes"),
    },
    "NamedFunction": {1: ("key", "text"), 2: ("value", "Function")},
    "Function": {
        1: ("inputs", "NamedType"), 2: ("opset", "text"), 3: ("blocks", "NamedBlock"),
        4: ("attributes", "Attribute"),
    },
    "NamedBlock": {1: ("key", "text"), 2: ("value", "Block")},
    "Block": {
        1: ("inputs", "NamedType"), 2: ("outputs", "text"), 3: ("operations", "Operation"),
        4: ("attributes", "Attribute"),
    },
    "Operation": {
        1: ("type", "text"), 2: ("inputs", "NamedArgument"), 3: ("outputs", "NamedType"),
        4: ("blocks", "Block"), 5: ("attributes", "Attribute"),
    },
    "NamedArgument": {1: ("key", "text"), 2: ("value", "Argument")},
    "Argument": {1: ("arguments", "Binding")},
    "Binding": {1: ("name", "text"), 2: ("value", "Value")},
    "Attribute": _NAMED,
    "NamedType": {1: ("name", "text"), 2: ("type", "Type")},
    "Type": {
        1: ("tensorType", "TensorType"), 2: ("listType", "ListType"), 3: ("tupleType", "bytes"),
        4: ("dictionaryType", "bytes"), 5: ("stateType", "StateType"),
    },
    "TensorType": {
        1: ("dataType", "int"), 2: ("rank", "int"), 3: ("dimensions", "Dimension"),
        4: ("attributes", "Attribute"),
    },
    "Dimension": {1: ("constant", "Size"), 2: ("unknown", "Open")},
    "Size": {1: ("size", "int")},
    "Open": {1: ("variadic", "int")},
    "ListType": {1: ("type", "Type"), 2: ("length", "Dimension")},
    "StateType": {1: ("wrappedType", "Type")},
    "Value": {
        1: ("docString", "bytes"), 2: ("type", "Type"), 3: ("immediateValue", "Immediate"),
        5: ("blobFileValue", "Blob"),
    },
    "Blob": {1: ("fileName", "text"), 2: ("offset", "int")},
    "Immediate": {
        1: ("tensor", "Numbers"), 2: ("tuple", "Values"), 3: ("list", "Values"),
        4: ("dictionary", "bytes"),
    },
    "Values": {1: ("values", "Value")},
    "Numbers": {
        1: ("floats", "Floats"), 2: ("ints", "Ints"), 3: ("bools", "Ints"), 4: ("strings", "Texts"),
        5: ("longInts", "Ints"), 6: ("doubles", "Doubles"), 7: ("bytes", "Bytes"),
    },
    "Floats": {1: ("values", "floats")},
    "Doubles": {1: ("values", "doubles")},
    "Ints": {1: ("values", "ints")},
    "Texts": {1: ("values", "text")},
    "Bytes": {1: ("values", "bytes")},
}  # fmt: skip
_MODE = ("gelu", "mode")
_GELUS = {"EXACT": "erf", "TANH_APPROXIMATION": "tanh"}
_UNSAID = frozenset({"docString", "notes", "offset"})


def read(package: Path) -> Contents:
    """Returns the constants and the structure of a package. Raises GoldenError."""
    called = package.name
    try:
        manifest = json.loads(source.read_small(package / "Manifest.json", _MANIFEST))
        place = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        if not isinstance(place, str):
            raise ValueError("its place is no text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GoldenError(f"{called}/Manifest.json names no model: {error}") from None
    path = source.inside(package, f"Data/{place}", f"{called}/Manifest.json")
    model = wire.whole(source.read_small(path, _MODEL), _SCHEMA, "Model", path.name)
    reader = _Reader(path)
    gelus: Counter[str] = Counter()
    epsilons: set[float] = set()
    for function in _functions(model):
        for name, value in _values(function):
            reader.add(name, value)
        asked = list(_asked(function))
        modes = [_number(v, "strings") for kind, key, v in asked if (kind, key) == _MODE]
        gelus |= Counter(_GELUS.get(mode, str(mode)) for mode in modes)  # another size's functions
        added = {(kind, _number(v, "floats") or 0.0) for kind, key, v in asked if key == "epsilon"}
        epsilons |= {number for kind, number in added - {("log", 0.0)}}  # a plain logarithm
    contents = reader.contents(model)
    contents.gelus, contents.epsilons = gelus, epsilons
    return contents


def _functions(model: wire.Message) -> Iterator[wire.Message]:
    for program in model.get("mlProgram", []):
        for function in program.get("functions", []):
            yield wire.one(function, "value", {})


def _operations(function: wire.Message) -> Iterator[wire.Message]:
    """Yields the operations of a function, with those of blocks inside others."""
    waiting: list[Any] = [b["value"][-1] for b in function.get("blocks", []) if "value" in b]
    while waiting:
        for operation in waiting.pop().get("operations", []):
            waiting += operation.get("blocks", [])
            yield operation


def _values(function: wire.Message) -> Iterator[tuple[str, wire.Message]]:
    """Yields every value with the name of what its operation gives, and of its own."""
    for operation in _operations(function):
        name = wire.one(wire.one(operation, "outputs", {}), "name", "")
        for attribute in operation.get("attributes", []):
            key = wire.one(attribute, "key", "")
            if key != "name" and "value" in attribute:
                yield name if key == "val" else f"{name}.{key}", attribute["value"][-1]
        for given in operation.get("inputs", []):
            for bound in wire.one(given, "value", {}).get("arguments", []):
                if "value" in bound:
                    yield f"{name}.{wire.one(given, 'key', '')}", bound["value"][-1]


def _asked(function: wire.Message) -> Iterator[tuple[str, str, wire.Message]]:
    """Yields the type of each operation, and the name and value of each input that is constant,
    whether it stands there or is a constant's of its own."""
    known = dict(_values(function))
    for operation in _operations(function):
        name = wire.one(wire.one(operation, "outputs", {}), "name", "")
        for given in operation.get("inputs", []):
            key = wire.one(given, "key", "")
            bound = wire.one(wire.one(given, "value", {}), "arguments", {})
            value = known.get(wire.one(bound, "name", f"{name}.{key}"))
            if value is not None:
                yield wire.one(operation, "type", ""), key, value


def _number(value: wire.Message, kind: str) -> Any:
    """Returns the one text, or the one float, of a value in the program; None for another."""
    tensor = wire.one(wire.one(value, "immediateValue", {}), "tensor", {})
    found = wire.one(wire.one(tensor, kind, {}), "values", None)
    if kind == "floats" and found is None:  # half precision lies in bytes
        raw = bytes(wire.one(wire.one(tensor, "bytes", {}), "values", b""))
        found = np.frombuffer(raw, np.float16) if len(raw) == 2 else None
    return found if isinstance(found, str) or found is None else float(np.ravel(found)[0])


class _Reader:
    """Collects constants. Functions of one program share blobs: each is listed once by a name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[str, source.File] = {}
        self._found: dict[tuple[str, object], Stored] = {}
        self._heads: list[tuple[source.File, int, int]] = []

    def contents(self, model: wire.Message) -> Contents:
        files = list(self._files.values())
        heads = [*self._heads, *((file, 0, min(_HEAD, file.size)) for file in files)]
        structure = ["mlpackage", *wire.text_of(model, _UNSAID)]
        return Contents(list(self._found.values()), structure, files, files, heads, respelt=True)

    def add(self, name: str, value: wire.Message) -> None:
        tensor = wire.one(wire.one(value, "type", {}), "tensorType", None)
        if tensor is None or wire.one(tensor, "dataType", 0) == 2:  # a list, or text
            return
        kind = _KINDS.get(
            wire.one(tensor, "dataType", 0), f"kind {wire.one(tensor, 'dataType', 0)}"
        )
        shape = tuple(
            wire.one(wire.one(size, "constant", {}), "size", 0)
            for size in tensor.get("dimensions", [])
        )
        if min(shape, default=0) < 0 or len(shape) > 64:
            raise GoldenError(f"{self._path.name}: {name[:200]!r} has the shape {shape[:64]}")
        if "blobFileValue" in value:
            blob = value["blobFileValue"][-1]
            place, offset = wire.one(blob, "fileName", ""), wire.one(blob, "offset", 0)
            if (name, (place, offset, kind, shape)) not in self._found:
                stored = self._blob(Stored(name, kind, shape, 0), place, offset)
                self._found[name, (place, offset, kind, shape)] = stored
        elif "immediateValue" in value:
            data = _immediate(value["immediateValue"][-1], kind)
            said = Stored(name, kind, shape, data.size, data=data, spoken=True)
            key = (kind, shape, data.tobytes())
            self._found.setdefault((name, key), checked(said, self._path.name))

    def _blob(self, about: Stored, place: str, offset: int) -> Stored:
        what = f"{self._path.name}: the constant {about.name[:200]!r}"
        if place not in self._files:
            path = source.inside(self._path.parent, place.removeprefix(_AT), what)
            self._files[place] = source.File(path, path.name)
        file = self._files[place]
        if not 0 <= offset <= file.size - _HEAD:
            raise GoldenError(f"{what} begins beyond the end of {file.called}")
        head = file.read(offset, _HEAD)
        mark, kind = (int(n) for n in head[:8].view("<u4"))
        size, begin = (int(n) for n in head[8:24].view("<u8"))
        if mark != _MARK or _BLOBS.get(kind, about.kind) != about.kind:
            raise GoldenError(f"{file.called} is damaged: {what} does not begin at byte {offset:,}")
        self._heads.append((file, offset, offset + _HEAD))
        found = Stored(about.name, about.kind, about.shape, size, file, begin)
        return checked(found, self._path.name)


def _immediate(value: wire.Message, kind: str) -> np.ndarray:
    """Returns the bytes of numbers that stand in the program."""
    numbers = wire.one(value, "tensor", {})
    for name in ("floats", "doubles", "ints", "bools", "longInts"):
        if name in numbers:
            return _as_bytes(np.array(numbers[name][-1].get("values", [])), kind)
    raw = wire.one(wire.one(numbers, "bytes", {}), "values", b"")
    return np.frombuffer(raw, np.uint8)


def _as_bytes(held: np.ndarray, kind: str) -> np.ndarray:
    if kind not in kinds.KINDS:
        return held.view(np.uint8)
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(kinds.narrow(held, kind)).view(np.uint8).reshape(-1)
