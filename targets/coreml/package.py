"""The reader of a saved `.mlpackage`: its functions, their operations, and the weights where they
lie.

It uses nothing of coremltools but the description of the protobuf, so that the writer's code does
not read its own output. The weight file is mapped into memory, and a weight is a view.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.ir.protobuf import messages
from goldfold.exporter.system.files import read_bounded
from goldfold.targets.coreml.layout import MANIFEST
from goldfold.targets.coreml.lower import vendor

_SENTINEL = 0xDEADBEEF
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST = 1 << 31
"""Maximum numbers in one value; EmbeddingGemma's table has a tenth of that."""
_KINDS = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64",
    21: "int8", 22: "int16", 23: "int32", 24: "int64", 25: "int4",
    31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4",
}  # fmt: skip
"""MIL's types by their number in the protobuf."""

SPEC_LIMIT = 256 << 20
"""Maximum bytes of a package's model without its weights."""
MANIFEST_LIMIT = 1 << 20

NUMPY = {
    "bool": np.bool_, "fp16": np.float16, "fp32": np.float32, "fp64": np.float64,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
    "int4": np.int8, "uint4": np.uint8,
}  # fmt: skip
_NIBBLES = ("int4", "uint4")
"""Types of 4 bits: a number takes one byte in memory; in the file, two numbers share one."""


@dataclass(frozen=True)
class Kind:
    """A declared type: MIL's word and a shape; None is an open size, a shape of None a list."""

    word: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "list" if self.shape is None else list(self.shape)
        return f"{self.word}{sizes}".replace("None", "?")


@dataclass(frozen=True)
class Operation:
    """One operation: parameters are names of values, or constants, or lists of both."""

    op: str
    name: str
    inputs: dict[str, Any]
    outputs: tuple[tuple[str, Kind], ...]


@dataclass(frozen=True)
class Ref:
    """The name of a value that another operation makes."""

    name: str


@dataclass(frozen=True)
class MilFunction:
    """One function of a package. Inputs and outputs have their declared types."""

    name: str
    inputs: dict[str, Kind]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    constants: dict[str, Any] = field(repr=False, default_factory=dict)
    """Values of `const` operations: arrays (weights are views of the file) and strings."""


@dataclass(frozen=True)
class Package:
    """A package's functions by name, and the default function."""

    path: Path
    functions: dict[str, MilFunction]
    default: str
    system: int
    """The specification version: 7 is iOS 16, 8 iOS 17, 9 iOS 18."""

    def function(self, name: str | None = None) -> MilFunction:
        """Returns the function of this name, or the default. Raises UsageError, listing the known
        ones."""
        if (name or self.default) not in self.functions:
            known = ", ".join(self.functions)
            raise UsageError(f"{self.path} has no function {name!r}; it has: {known}")
        return self.functions[name or self.default]


def read(path: Path) -> Package:
    """Open a package. Raises ArtifactError, in one line, for one that is damaged or is no ML
    program."""
    root, data = _root(path)
    spec = _spec(root)
    if spec.WhichOneof("Type") != "mlProgram":
        what = spec.WhichOneof("Type") or "nothing"
        raise ArtifactError(f"{path} holds {what}, not an ML program")
    blobs = _Blobs(data)
    try:
        functions = {
            name: _function(name, function, blobs)
            for name, function in sorted(spec.mlProgram.functions.items())
        }
    except ArtifactError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(f"{path} is damaged: {reason}") from error
    if not functions:
        raise ArtifactError(f"{path} holds an ML program without functions")
    default = spec.description.defaultFunctionName or "main"
    return Package(path, functions, default if default in functions else next(iter(functions)),
                   spec.specificationVersion)  # fmt: skip


def references(path: Path) -> set[str]:
    """Returns the files that a package tells Core ML to read, by their paths below it. Raises
    ArtifactError."""
    root, data = _root(path)
    spec = _spec(root)
    blobs = (m for m in messages(spec) if m.DESCRIPTOR.name == "BlobFileValue")
    inside = data.relative_to(path).as_posix()
    places = {f"{inside}/{blob.fileName.removeprefix('@model_path/')}" for blob in blobs}
    return {root.relative_to(path).as_posix(), *places}


def _spec(root: Path) -> Any:
    """Returns the protobuf in a model file."""
    spec = vendor.coremltools().proto.Model_pb2.Model()
    try:
        spec.ParseFromString(read_bounded(root, SPEC_LIMIT))
    except OSError as error:
        raise ArtifactError(f"{root} cannot be read: {error.strerror}") from error
    except Exception as error:
        raise ArtifactError(f"{root} is damaged: it is no Core ML model") from error
    return spec


def _root(path: Path) -> tuple[Path, Path]:
    """Returns the model file that the manifest names, and the folder for which `@model_path`
    stands."""
    manifest = path / MANIFEST
    if not path.exists():
        raise ArtifactError(f"{path} does not exist")
    if not manifest.is_file():
        raise ArtifactError(f"{path} is no .mlpackage: it has no {MANIFEST}")
    try:
        found = json.loads(read_bounded(manifest, MANIFEST_LIMIT))
        item = found["itemInfoEntries"][found["rootModelIdentifier"]]["path"]
        root = path / "Data" / item
    except Exception as error:
        raise ArtifactError(f"{manifest} is damaged: it names no model") from error
    try:
        inside = root.resolve().is_relative_to(path.resolve())
    except (OSError, ValueError):  # a NUL, or a name beyond the system's
        inside = False
    if not inside:
        raise ArtifactError(f"{manifest} is damaged: it points outside the package")
    return root, root.parent


class _Blobs:
    """The weight files, mapped at their first read."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.maps: dict[str, np.ndarray] = {}
        self.unpacked: dict[tuple[str, int, Kind], np.ndarray] = {}

    def read(self, name: str, offset: int, kind: Kind) -> np.ndarray:
        """Returns the array at `offset` of the file `name`: a view, except for 4 bits. Its header
        is checked against `kind`."""
        path = self.data / name.removeprefix("@model_path/")
        if not path.resolve().is_relative_to(self.data.resolve()):
            raise ArtifactError(f"{self.data} is damaged: {name} lies outside the package")
        if name not in self.maps:
            try:
                self.maps[name] = np.memmap(path, dtype=np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise ArtifactError(f"{path} cannot be read: {error}") from error
        whole = self.maps[name]
        # 64 bytes: a mark, a type, then size and place of the data, all little-endian.
        head = whole[offset : offset + 24]
        if len(head) < 24 or int(head[:4].view("<u4")[0]) != _SENTINEL:
            raise ArtifactError(f"{path} is damaged: no weight begins at byte {offset}")
        size, start = (int(number) for number in head[8:24].view("<u8"))
        if kind.word not in NUMPY or kind.shape is None or None in kind.shape:
            raise ArtifactError(f"{path}: weights of type {kind} are not known here")
        count = math.prod(size or 0 for size in kind.shape)
        small = kind.word in _NIBBLES
        wanted = -(-count // 2) if small else count * np.dtype(NUMPY[kind.word]).itemsize
        if size != wanted or start + size > len(whole):
            raise ArtifactError(
                f"{path} is damaged: the weight at byte {offset} has {size} bytes for {kind}"
            )
        held = whole[start : start + size]
        if not small:
            return held.view(NUMPY[kind.word]).reshape(kind.shape)  # type: ignore[arg-type]
        if (name, offset, kind) not in self.unpacked:  # once for functions that share it
            self.unpacked[name, offset, kind] = _unpacked(held, kind)
        return self.unpacked[name, offset, kind]


def _unpacked(held: np.ndarray, kind: Kind) -> np.ndarray:
    """Returns numbers of 4 bits, the first in the lower half of a byte, each in a byte of its
    own."""
    pairs = np.stack([held & 15, held >> 4], axis=-1).reshape(-1)
    numbers = pairs[: math.prod(size or 0 for size in kind.shape or ())]
    if kind.word == "int4":
        numbers = ((numbers ^ 8) - np.uint8(8)).view(np.int8)
    return numbers.reshape(kind.shape)  # type: ignore[arg-type]


def _kind(proto: Any) -> Kind:
    which = proto.WhichOneof("type")
    if which == "listType":
        return Kind(_kind(proto.listType.type).word, None)
    if which != "tensorType":
        raise ArtifactError(f"a value of MIL type {which} is not known here")
    tensor = proto.tensorType
    if tensor.dataType not in _KINDS:
        raise ArtifactError(f"a tensor of MIL type {tensor.dataType} is not known here")
    sizes = tuple(
        int(d.constant.size) if d.WhichOneof("dimension") == "constant" else None
        for d in tensor.dimensions
    )
    # In Python's numbers: numpy's would wrap.
    if math.prod(size or 1 for size in sizes) > _MOST:
        raise ArtifactError(f"a value of shape {list(sizes)} is larger than any that fits here")
    return Kind(_KINDS[tensor.dataType], sizes)


def _value(proto: Any, blobs: _Blobs) -> Any:
    """Returns a constant: an array, a string, or a list of either."""
    kind = _kind(proto.type)
    if proto.WhichOneof("value") == "blobFileValue":
        place = proto.blobFileValue
        return blobs.read(place.fileName, place.offset, kind)
    held = proto.immediateValue
    if held.WhichOneof("value") == "list":
        return [_value(item, blobs) for item in held.list.values]
    which = held.tensor.WhichOneof("value")
    values = getattr(held.tensor, which).values
    if kind.word == "string":
        return values[0] if kind.shape == () else list(values)
    wanted = np.dtype(NUMPY[kind.word])
    if which == "bytes" and kind.word in _NIBBLES:
        return _unpacked(np.frombuffer(values, np.uint8), kind)
    array = np.frombuffer(values, wanted) if which == "bytes" else np.array(values, dtype=wanted)
    return array.reshape(kind.shape)  # type: ignore[arg-type]


def _function(name: str, proto: Any, blobs: _Blobs) -> MilFunction:
    # Checked first: a protobuf map creates a missing key on access.
    if proto.opset not in proto.block_specializations:
        raise ArtifactError(f"the function {name} has no body for its own opset {proto.opset!r}")
    block = proto.block_specializations[proto.opset]
    constants: dict[str, Any] = {}
    operations = tuple(_operations(block, blobs, constants))
    inputs = {value.name: _kind(value.type) for value in proto.inputs}
    function = MilFunction(name, inputs, tuple(block.outputs), operations, constants)
    _check(function)
    return function


def _check(function: MilFunction) -> None:
    """Raise ArtifactError for an invalid name, and for a name that is read and never made."""
    known = {*function.inputs, *function.constants}
    for operation in function.operations:
        for read in _refs(operation.inputs.values()):
            if read not in known:
                raise ArtifactError(
                    f"{operation.op} at {operation.name} reads {read}, made nowhere"
                )
        known |= {output for output, _ in operation.outputs}
    for output in function.outputs:
        if output not in known:
            raise ArtifactError(f"the function {function.name} gives {output}, made nowhere")
    if not function.outputs:
        raise ArtifactError(f"the function {function.name} gives nothing")
    for value in (*function.inputs, *function.outputs):
        if not _NAME.fullmatch(value):
            raise ArtifactError(f"{value!r} is no name for an input or output")


def _refs(inputs: Iterable[Any]) -> Iterator[str]:
    for bound in inputs:
        for one in bound if isinstance(bound, list) else [bound]:
            if isinstance(one, Ref):
                yield one.name


def _operations(block: Any, blobs: _Blobs, constants: dict[str, Any]) -> Iterator[Operation]:
    for proto in block.operations:
        attributes = {key: value for key, value in proto.attributes.items() if key != "name"}
        if proto.type == "const":
            constants[proto.outputs[0].name] = _value(attributes["val"], blobs)
            continue
        inputs: dict[str, Any] = {
            key: _bound(argument.arguments, blobs) for key, argument in proto.inputs.items()
        }
        # Compressed weights keep their parameters as attributes before iOS 18.
        inputs |= {key: _value(value, blobs) for key, value in attributes.items()}
        if proto.blocks:
            inputs["blocks"] = len(proto.blocks)
        outputs = tuple((value.name, _kind(value.type)) for value in proto.outputs)
        named = "name" in proto.attributes  # .get would make an empty one
        said = proto.attributes["name"] if named else None
        yield Operation(
            proto.type,
            outputs[0][0] if said is None else _value(said, blobs),
            inputs,
            outputs,
        )


def _bound(bindings: Sequence[Any], blobs: _Blobs) -> Any:
    made = [
        Ref(b.name) if b.WhichOneof("binding") == "name" else _value(b.value, blobs)
        for b in bindings
    ]
    return made[0] if len(made) == 1 else made
