"""Weights placed elsewhere, byte for byte what onnx itself reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from goldfold.exporter.errors import ArtifactError, OutputError
from goldfold.exporter.ir import external_data, protobuf
from goldfold.exporter.ir.external_data import Span

DATA = bytes(range(256)) * 1024


def outside(name: str, offset: int, size: int = 8, file: str = "w.data") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[size], doc_string="kept")
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": file, "offset": offset, "length": size, "checksum": "0"}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model() -> onnx.ModelProto:
    """Weights in the graph, in a branch, in an attribute, in a sparse tensor, in a function."""
    inner = helper.make_graph([], "inner", [], [], [outside("b", 16)])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["k"], value=outside("v", 1000)),
    ]
    small = helper.make_tensor("s", TensorProto.FLOAT, [2], [1.0, -2.0])
    graph = helper.make_graph(nodes, "g", [], [], [outside("w", 70_000, 100), small])
    graph.sparse_initializer.add(values=outside("sv", 32), indices=outside("si", 48))
    made = helper.make_model(graph)
    function = helper.make_function("d", "f", [], [], [nodes[1]], [helper.make_opsetid("", 23)])
    made.functions.append(function)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "w.data").write_bytes(DATA)
    (tmp_path / "model.onnx").write_bytes(model().SerializeToString())
    return tmp_path


def tensors(file: Path) -> list[tuple[str, bytes, str]]:
    """Name, bytes and comment of every tensor, by onnx's own classes."""
    found = []
    for message in protobuf.messages(onnx.ModelProto.FromString(file.read_bytes())):
        if isinstance(message, onnx.TensorProto):
            if message.data_location == TensorProto.EXTERNAL:
                said = {entry.key: entry.value for entry in message.external_data}
                raw = (file.parent / said["location"]).read_bytes()
                raw = raw[int(said["offset"]) :][: int(said["length"])]
            else:
                raw = onnx.numpy_helper.to_array(message).tobytes()
            found.append((message.name, raw, message.doc_string))
    return sorted(found)


def placed(folder: Path, place: external_data.Place) -> Path:
    graph = external_data.read(folder / "model.onnx")
    file = folder / "out" / "new.onnx"
    pieces = external_data.rewritten(graph, place)
    external_data.write(pieces, folder, file)
    assert file.stat().st_size == external_data.size(pieces)
    return file


def test_weights_move_into_the_graph(folder: Path) -> None:
    file = placed(folder, lambda span: None)
    assert protobuf.references(file) == set()
    assert tensors(file) == tensors(folder / "model.onnx")


def test_weights_get_files_of_other_names(folder: Path) -> None:
    file = placed(folder, lambda span: Span(f"{span.file}_other", span.offset, span.length))
    assert protobuf.references(file) == {"w.data_other"}
    (file.parent / "w.data_other").write_bytes(DATA)
    assert tensors(file) == tensors(folder / "model.onnx")


def test_a_graph_whose_weights_stay_keeps_its_bytes(folder: Path) -> None:
    file = placed(folder, lambda span: span)
    assert file.read_bytes() == (folder / "model.onnx").read_bytes()


def test_spans_are_those_of_all_tensors(folder: Path) -> None:
    found = external_data.spans(external_data.read(folder / "model.onnx"), folder)
    assert {span.offset for span in found} == {16, 1000, 70_000, 32, 48}


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (outside("w", 0, 8, "../secret"), "names the file '../secret'"),
        (outside("w", 0, 8, "gone"), "names the file 'gone'"),
        (outside("w", 262_140, 8), "its graph reads up to 262148"),
        (outside("w", -1, 8), "begin before"),
    ],
)
def test_bytes_that_are_not_there_are_refused(folder: Path, tensor: TensorProto, said: str) -> None:
    graph = helper.make_graph([], "g", [], [], [tensor])
    raw = helper.make_model(graph).SerializeToString()
    with pytest.raises(ArtifactError, match=said) as refused:
        external_data.spans(raw, folder)
    assert "\n" not in str(refused.value)


def test_a_tensor_without_an_end_is_refused(folder: Path) -> None:
    tensor = outside("w", 0)
    del tensor.external_data[2:]
    raw = helper.make_model(helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    with pytest.raises(ArtifactError, match="where its bytes begin and end"):
        external_data.spans(raw, folder)


def test_no_file_is_written_over(folder: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write w\.data"):
        external_data.write([b"x"], folder, folder / "w.data")
    assert (folder / "w.data").read_bytes() == DATA


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 90_000)), min_size=1, max_size=30))
@example([(0, 100_000), (0, 100_000), (3, 1)])
def test_parts_hold_every_tensor_whole(drawn: list[tuple[int, int]]) -> None:
    at, found = 0, []
    for gap, size in drawn:
        at += gap * 4096
        found.append(Span("w", at, size))
        at += size
    limit = 200_000
    parts = external_data.chunks(found[::-1], limit)
    for span in found:
        assert any(part.offset <= span.offset and span.end <= part.end for part in parts)
    for part in parts:
        assert part.length <= limit and part.offset % (1 << 16) == 0
    assert np.all(np.diff([part.end for part in parts]) > 0)


def test_a_tensor_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ArtifactError, match="a tensor has 11 bytes, and one file holds 10"):
        external_data.chunks([Span("w", 0, 11)], 10)
