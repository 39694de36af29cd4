"""`openvino_model.xml` and `.bin`, parsed as XML and changed as bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tests.mutants.graph import Constant, Graph, Inapplicable, Node, Rows, packed, unpacked

XML = "openvino_model.xml"
_WORDS = {
    "f32": "float32", "f16": "float16", "f64": "float64", "i64": "int64", "i32": "int32",
    "i8": "int8", "u8": "uint8", "i4": "int4", "u4": "uint4", "boolean": "bool",
}  # fmt: skip
_SMALL = 64
"""Bytes of a constant that may lie where others do: it gets a place of its own when it changes."""


class OpenVinoGraph(Graph):
    def __init__(self, folder: Path) -> None:
        self.path = folder / XML
        self.tree = ElementTree.parse(self.path)
        self.data = bytearray(self.path.with_suffix(".bin").read_bytes())
        self.edited = False
        root = self.tree.getroot()
        layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
        self.edges = {
            (edge.attrib["to-layer"], edge.attrib["to-port"]): edge
            for edge in root.iterfind("edges/edge")
        }
        self.places: dict[str, tuple[str, str]] = {}
        for key, layer in layers.items():
            for port in layer.iterfind("output/port"):
                self.places[self._value(layer, port.attrib["id"])] = (key, port.attrib["id"])
        self.constants, self.nodes = {}, []
        for key, layer in layers.items():
            data = layer.find("data")
            said = dict(data.attrib) if data is not None else {}
            if layer.attrib["type"] == "Const":
                if said["element_type"] in _WORDS and said["size"] != "0":
                    self._read(layer, said)
                continue
            ports = [port.attrib["id"] for port in layer.iterfind("input/port")]
            inputs = [
                self._value(layers[edge.attrib["from-layer"]], edge.attrib["from-port"])
                for port in ports
                for edge in [self.edges[key, port]]
            ]
            outputs = [self._value(layer, p.attrib["id"]) for p in layer.iterfind("output/port")]
            kind = layer.attrib["type"]
            self.nodes.append(Node(layer.attrib["name"], kind, inputs, outputs, said, layer))

    @staticmethod
    def _value(layer: ElementTree.Element, port: str) -> str:
        name = layer.attrib["name"]
        ports = layer.findall("output/port")
        return name if len(ports) == 1 else f"{name}:{port}"

    def _read(self, layer: ElementTree.Element, said: dict[str, str]) -> None:
        word, name = _WORDS[said["element_type"]], layer.attrib["name"]
        shape = tuple(int(n) for n in said["shape"].split(",") if n.strip())
        offset, size = int(said["offset"]), int(said["size"])
        raw = bytes(self.data[offset : offset + size])

        def write(array: np.ndarray) -> None:
            fresh, place = packed(array, word), offset
            if size <= _SMALL:
                place = len(self.data)
                self.data.extend(fresh)
                layer.find("data").set("offset", str(place))  # type: ignore[union-attr]
            self.data[place : place + size] = fresh

        self.constants[name] = Constant(name, word, unpacked(raw, word, shape), write)

    def save(self) -> None:
        if not self.edited:
            self.tree.write(self.path, encoding="utf-8", xml_declaration=True)
            self.path.with_suffix(".bin").write_bytes(self.data)

    def set(self, node: Node, key: str, value: Any) -> None:
        node.handle.find("data").set(key, str(value))

    def rewire(self, node: Node, place: int, value: str) -> None:
        port = node.handle.findall("input/port")[place].attrib["id"]
        edge = self.edges[node.handle.attrib["id"], port]
        layer, from_port = self.places[value]
        edge.set("from-layer", layer)
        edge.set("from-port", from_port)

    def retype(self, node: Node, op: str) -> None:
        node.handle.set("type", op)

    # --- edits of the graph, through OpenVINO's own Python

    def _model(self) -> Any:
        import openvino as ov

        self.edited = True
        model = ov.Core().read_model(self.path)
        names = [port.get_names() for port in model.outputs]
        return model, names

    def _close(self, model: Any) -> None:
        import openvino as ov

        fresh = self.path.with_name("fresh.xml")
        ov.save_model(model, fresh, compress_to_fp16=False)
        del model
        for suffix in (".xml", ".bin"):
            fresh.with_suffix(suffix).replace(self.path.with_suffix(suffix))

    def flip_rows(self, wrong: Rows) -> None:
        from openvino import opset13 as ops

        model, names = self._model()
        port = model.outputs[0].get_node().input(0)
        made = port.get_source_output()
        size = ops.gather(ops.shape_of(made), np.array([0], np.int64), np.array(0, np.int64))
        rows = ops.range(np.int64(0), ops.squeeze(size, np.array([0])), np.int64(1), "i64")
        if wrong.size is not None:
            found = ops.equal(size, np.array([wrong.size], np.int64))
        elif wrong.only is not None:
            found = ops.equal(rows, np.array([wrong.only], np.int64))
        else:
            found = ops.greater_equal(rows, np.array([wrong.first], np.int64))
        sign = ops.select(found, np.float32(-1), np.float32(1))
        spoilt = ops.multiply(made, ops.unsqueeze(sign, np.array([1], np.int64)))
        made.get_tensor().set_names({"wrong.sound"})
        port.replace_source_output(spoilt.output(0))
        spoilt.output(0).get_tensor().set_names(names[0])
        model.validate_nodes_and_infer_types()
        self._close(model)

    def exchange_ids(self, first: int, second: int) -> None:
        from openvino import opset13 as ops

        model, _ = self._model()
        ids = next(p for p in model.get_parameters() if p.get_friendly_name() == "input_ids")
        readers = [
            port for port in ids.output(0).get_target_inputs()
            if port.get_node().get_type_name() in ("Gather", "Convert")
        ]  # fmt: skip
        if not readers:
            raise Inapplicable("no lookup reads the ids")
        here = ops.equal(ids, np.array(first, np.int64))
        read = ops.select(here, np.array(second, np.int64), ids)
        for port in readers:
            port.replace_source_output(read.output(0))
        model.validate_nodes_and_infer_types()
        self._close(model)

    def pool_first(self) -> None:
        from openvino import opset13 as ops

        sums = [n for n in self.nodes if n.op == "ReduceSum" and n.name.startswith("stages.")]
        names = [(n.name, r.name) for n in sums for r, place in self.readers(n.outputs[0])
                 if r.op == "Divide" and not place]  # fmt: skip
        if not names:
            raise Inapplicable("nothing is pooled by its mean")
        model, _ = self._model()
        held = {op.get_friendly_name(): op for op in model.get_ordered_ops()}
        tokens = held[names[0][0]].input_value(0)
        mean = held[names[0][1]].output(0)
        readers = mean.get_target_inputs()
        first = ops.gather(tokens, np.array(0, np.int64), np.array(1, np.int64))
        for port in readers:
            port.replace_source_output(first.output(0))
        model.validate_nodes_and_infer_types()
        self._close(model)
