"""A `.mlpackage`: the protobuf of its functions, and the bytes of `weight.bin`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.mutants.graph import Constant, Graph, Node, packed, unpacked

_ROOM = "model.mlpackage/Data/com.apple.CoreML"
_WORDS = {
    1: "bool", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32",
    24: "int64", 25: "int4", 31: "uint8", 35: "uint4",
}  # fmt: skip
_STRING = 2


class CoreMlGraph(Graph):
    """Values are named `function/name`; parameters that are constants are attributes as well."""

    def __init__(self, folder: Path) -> None:
        from coremltools.proto import Model_pb2

        room = folder / _ROOM
        self.path, self.weights = room / "model.mlmodel", room / "weights/weight.bin"
        self.spec = Model_pb2.Model()
        self.spec.ParseFromString(self.path.read_bytes())
        self.data = bytearray(self.weights.read_bytes())
        self.constants, self.nodes = {}, []
        for stem, function in sorted(self.spec.mlProgram.functions.items()):
            block = function.block_specializations[function.opset]
            for operation in block.operations:
                self._add(stem, operation)

    def _add(self, stem: str, operation: Any) -> None:
        name = f"{stem}/{operation.outputs[0].name}"
        if operation.type == "const":
            self._read(name, operation.attributes["val"])
            return
        inputs: list[str] = []
        attributes: dict[str, Any] = {}
        for key, value in self._bound(stem, name, operation):
            inputs.append(value)
            if value in self.constants and self.constants[value].array.size <= 4:
                attributes[key] = self.constants[value].array
        outputs = [f"{stem}/{value.name}" for value in operation.outputs]
        self.nodes.append(Node(name, operation.type, inputs, outputs, attributes, operation))

    def _bound(self, stem: str, name: str, operation: Any) -> Iterator[tuple[str, str]]:
        for key, argument in operation.inputs.items():
            for place, bound in enumerate(argument.arguments):
                if bound.WhichOneof("binding") == "name":
                    yield key, f"{stem}/{bound.name}"
                else:
                    self._read(f"{name}.{key}{place or ''}", bound.value)
                    yield key, f"{name}.{key}{place or ''}"
        for key, value in operation.attributes.items():
            if key != "name":
                self._read(f"{name}.{key}", value)
                yield key, f"{name}.{key}"

    def _read(self, name: str, value: Any) -> None:
        kind = value.type.tensorType
        shape = tuple(int(d.constant.size) for d in kind.dimensions)
        if value.WhichOneof("value") == "blobFileValue":
            if kind.dataType in _WORDS:
                self._blob(name, _WORDS[kind.dataType], shape, value.blobFileValue.offset)
            return
        held = value.immediateValue.tensor
        which = held.WhichOneof("value")
        if which is None or value.immediateValue.WhichOneof("value") != "tensor":
            return
        field = getattr(held, which)
        if kind.dataType == _STRING:
            array: np.ndarray = np.array(list(field.values))
        elif which == "bytes":
            array = unpacked(bytes(field.values), _WORDS[kind.dataType], shape)
        else:
            array = np.array(list(field.values), _WORDS[kind.dataType]).reshape(shape)
        word = "string" if kind.dataType == _STRING else _WORDS[kind.dataType]

        def write(fresh: np.ndarray) -> None:
            if which == "bytes":
                field.values = packed(fresh, word)
                return
            del field.values[:]
            field.values.extend(fresh.reshape(-1).tolist())

        self.constants[name] = Constant(name, word, array, write)

    def _blob(self, name: str, word: str, shape: tuple[int, ...], offset: int) -> None:
        size, start = struct.unpack_from("<QQ", self.data, offset + 8)

        def write(fresh: np.ndarray) -> None:
            self.data[start : start + size] = packed(fresh, word)

        array = unpacked(bytes(self.data[start : start + size]), word, shape)
        self.constants[name] = Constant(name, word, array, write)

    def save(self) -> None:
        self.path.write_bytes(self.spec.SerializeToString(deterministic=True))
        self.weights.write_bytes(self.data)

    def set(self, node: Node, key: str, value: Any) -> None:
        name = next(v for k, v in self._names(node) if k == key)
        held = self.constants[name].array
        self.put(name, np.asarray(value, held.dtype).reshape(held.shape))

    @staticmethod
    def _names(node: Node) -> Iterator[tuple[str, str]]:
        stem = node.name.partition("/")[0]
        for key, argument in node.handle.inputs.items():
            for place, bound in enumerate(argument.arguments):
                named = bound.WhichOneof("binding") == "name"
                yield key, f"{stem}/{bound.name}" if named else f"{node.name}.{key}{place or ''}"

    def rewire(self, node: Node, place: int, value: str) -> None:
        bound = [b for argument in node.handle.inputs.values() for b in argument.arguments]
        bound[place].name = value.partition("/")[2]

    def retype(self, node: Node, op: str) -> None:
        node.handle.type = op
