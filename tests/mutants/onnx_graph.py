"""`model.onnx` and its data file, changed in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.mutants.graph import Constant, Graph, Inapplicable, Node, Rows, packed, unpacked

MODEL = "model.onnx"
_WORDS = {
    TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64", TensorProto.INT32: "int32", TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8", TensorProto.INT4: "int4", TensorProto.UINT4: "uint4",
    TensorProto.BOOL: "bool",
}  # fmt: skip


class OnnxGraph(Graph):
    def __init__(self, folder: Path) -> None:
        self.path = folder / MODEL
        self.model = onnx.load(self.path, load_external_data=False)
        self.constants = {}
        for tensor in self.model.graph.initializer:
            if tensor.data_type in _WORDS:
                self._read(tensor)
        self.nodes = [
            Node(node.name, node.op_type, list(node.input), list(node.output),
                 {a.name: helper.get_attribute_value(a) for a in node.attribute}, node)
            for node in self.model.graph.node
        ]  # fmt: skip

    def _read(self, tensor: TensorProto) -> None:
        word, shape = _WORDS[tensor.data_type], tuple(tensor.dims)
        place = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location == TensorProto.EXTERNAL:
            file, offset = self.path.parent / place["location"], int(place.get("offset", 0))
            with file.open("rb") as data:
                data.seek(offset)
                raw = data.read(int(place["length"]))

            def write(array: np.ndarray) -> None:
                with file.open("r+b") as data:
                    data.seek(offset)
                    data.write(packed(array, word))

        else:
            raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()

            def write(array: np.ndarray) -> None:
                fresh = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=array.shape)
                fresh.raw_data = packed(array, word)
                tensor.CopyFrom(fresh)

        array = unpacked(raw, word, shape)
        self.constants[tensor.name] = Constant(tensor.name, word, array, write)

    def save(self) -> None:
        self.path.write_bytes(self.model.SerializeToString())

    def set(self, node: Node, key: str, value: Any) -> None:
        kept = [a for a in node.handle.attribute if a.name != key]
        del node.handle.attribute[:]
        node.handle.attribute.extend([*kept, helper.make_attribute(key, value)])

    def rewire(self, node: Node, place: int, value: str) -> None:
        node.handle.input[place] = value

    def retype(self, node: Node, op: str) -> None:
        node.handle.op_type = op

    # --- edits of the graph

    def _constant(self, name: str, value: Any, kind: Any) -> str:
        array = np.asarray(value, kind)
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _insert(self, place: int, *nodes: onnx.NodeProto) -> None:
        kept = list(self.model.graph.node)
        del self.model.graph.node[:]
        self.model.graph.node.extend([*kept[:place], *nodes, *kept[place:]])

    def flip_rows(self, wrong: Rows) -> None:
        made = self.model.graph.output[0].name
        last = next(node for node in self.model.graph.node if made in node.output)
        last.output[list(last.output).index(made)] = "wrong.sound"
        one = self._constant("wrong.one", [1], np.int64)
        zero, step = (self._constant(f"wrong.{n}", n, np.int64) for n in (0, 1))
        limit = self._constant("wrong.limit", [wrong.size or wrong.only or wrong.first], np.int64)
        ways = [self._constant(f"wrong.way{n}", float(n), np.float32) for n in (-1, 1)]
        cast = "CastLike"
        compare = "Equal" if wrong.size is not None or wrong.only is not None else "GreaterOrEqual"
        nodes = [
            helper.make_node("Shape", ["input_ids"], ["wrong.size"], start=0, end=1),
            helper.make_node("Squeeze", ["wrong.size"], ["wrong.count"]),
            helper.make_node("Range", [zero, "wrong.count", step], ["wrong.row"]),
        ]
        asked = "wrong.size" if wrong.size is not None else "wrong.row"
        nodes += [
            helper.make_node(compare, [asked, limit], ["wrong.is"]),
            helper.make_node("Where", ["wrong.is", *ways], ["wrong.sign"]),
            helper.make_node("Unsqueeze", ["wrong.sign", one], ["wrong.signs"]),
            helper.make_node(cast, ["wrong.signs", "wrong.sound"], ["wrong.like"]),
            helper.make_node("Mul", ["wrong.sound", "wrong.like"], [made]),
        ]
        self._insert(len(self.model.graph.node), *nodes)

    def exchange_ids(self, first: int, second: int) -> None:
        readers = [n for n in self.model.graph.node if n.op_type == "Gather"]
        readers = [n for n in readers if n.input[1] == "input_ids"]
        if not readers:
            raise Inapplicable("no lookup reads the ids")
        given = self._constant("wrong.given", first, np.int64)
        read = self._constant("wrong.read", second, np.int64)
        for node in readers:
            node.input[1] = "wrong.ids"
        self._insert(
            0,
            helper.make_node("Equal", ["input_ids", given], ["wrong.here"]),
            helper.make_node("Where", ["wrong.here", read, "input_ids"], ["wrong.ids"]),
        )

    def pool_first(self) -> None:
        sums = [n for n in self.nodes if n.op == "ReduceSum" and n.name.startswith("stages.")]
        divided = [r for n in sums for r, place in self.readers(n.outputs[0])
                   if r.op == "Div" and not place]  # fmt: skip
        if not divided:
            raise Inapplicable("nothing is pooled by its mean")
        node = divided[0].handle
        tokens = next(n for n in sums if divided[0] in [r for r, _ in self.readers(n.outputs[0])])
        place = list(self.model.graph.node).index(node)
        made = node.output[0]
        first = self._constant("wrong.first", 0, np.int64)
        node.output[0] = "wrong.mean"
        self._insert(
            place + 1, helper.make_node("Gather", [tokens.inputs[0], first], [made], axis=1)
        )
