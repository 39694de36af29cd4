"""Which files an `.onnx` file refers to, read without onnx: the same that onnx itself reads."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.ir import protobuf


def outside(name: str, *places: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for place in places:
        tensor.external_data.add(key="location", value=place)
    tensor.external_data.add(key="offset", value="0")
    return tensor


def model() -> onnx.ModelProto:
    """Tensors wherever ONNX may hold one: in branches, in functions, in sparse tensors."""
    inner = helper.make_graph([], "inner", [], [], [outside("b", "branch.bin")])
    tensors = [outside("l", "list.bin"), outside("m", "map.bin")]
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["k"], value=outside("v", "../away.bin")),
        helper.make_node("Odd", [], ["o"], values=tensors),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [outside("w", "model.onnx.data")])
    graph.sparse_initializer.add(values=outside("s", "sparse.bin"), indices=outside("i", "i.bin"))
    made = helper.make_model(graph)
    made.functions.append(
        helper.make_function("d", "f", [], [], [nodes[1]], [helper.make_opsetid("", 23)])
    )
    made.training_info.add(initialization=helper.make_graph([], "t", [], [], [outside("t", "t")]))
    return made


def theirs(raw: bytes) -> set[str]:
    """The same by onnx's own classes."""
    found: set[str] = set()
    for message in protobuf.messages(onnx.ModelProto.FromString(raw)):
        if isinstance(message, onnx.TensorProto):
            places = {e.value for e in message.external_data if e.key == "location"}
            if message.data_location == TensorProto.EXTERNAL or message.external_data:
                found |= places or {""}
    return found


def test_a_reference_is_found_wherever_a_tensor_may_stand(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(model().SerializeToString())
    found = protobuf.references(file)
    assert found == theirs(file.read_bytes())
    assert {"branch.bin", "../away.bin", "list.bin", "map.bin", "sparse.bin", "i.bin", "t"} < found


def test_a_tensor_that_names_no_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    graph = helper.make_graph([], "g", [], [], [outside("w")])
    file.write_bytes(helper.make_model(graph).SerializeToString())
    assert protobuf.references(file) == {""}


def test_damage_that_onnx_still_reads_hides_no_reference(tmp_path: Path) -> None:
    """A thousand files with a byte changed, cut or put in."""
    whole, drawn, file = model().SerializeToString(), random.Random(0), tmp_path / "model.onnx"
    read = 0
    for _ in range(1000):
        raw = bytearray(whole)
        for _ in range(drawn.randint(1, 3)):
            at = drawn.randrange(len(raw))
            raw[at : at + drawn.randint(0, 2)] = drawn.randbytes(drawn.randint(0, 2))
        file.write_bytes(raw)
        try:
            expected = theirs(bytes(raw))
        except Exception:  # protobuf's own
            expected = None
        try:
            found = protobuf.references(file)
        except ArtifactError:
            continue
        if expected is not None:
            read += 1
            assert expected <= found
    assert read > 50


def _field(number: int, inside: bytes, beyond: int = 0) -> bytes:
    """A message in a message; `beyond` adds to its tag what 32 bits do not hold."""
    return _varint((number << 3 | 2) + beyond) + _varint(len(inside)) + inside


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


@pytest.mark.parametrize("hidden", ["tensor", "entries", "graph"])
@pytest.mark.parametrize("beyond", [1 << 32, 1 << 35])
def test_a_field_whose_number_overflows_hides_nothing(
    hidden: str, beyond: int, tmp_path: Path
) -> None:
    """protobuf in C++ counts fields in 32 bits: it would read what was overlooked here."""
    tensor = outside("w", "../secret.bin")
    raw = tensor.SerializeToString()
    if hidden == "entries":
        tensor.ClearField("external_data")
        entry = helper.make_tensor("e", 1, [1], [0.0]).external_data.add(key="location", value="x")
        raw = tensor.SerializeToString() + _field(13, entry.SerializeToString(), beyond)
    graph = _field(5, raw, beyond if hidden == "tensor" else 0)
    file = tmp_path / "model.onnx"
    file.write_bytes(_field(7, graph, beyond if hidden == "graph" else 0))
    with pytest.raises(ArtifactError, match="it is no file of ONNX"):
        protobuf.references(file)


def test_a_file_of_nothing_but_messages_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(_field(7, b"\x0a\x00" * 3_000_000))
    with pytest.raises(ArtifactError, match="more than any model does"):
        protobuf.references(file)


@pytest.mark.parametrize("raw", [b"\x00", b"\x3a\xff", b"\x3a\x7f\x00", b"\x0b", b"\xff" * 20])
def test_what_is_no_message_is_refused_in_a_line(raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(raw)
    with pytest.raises(ArtifactError, match="it is no file of ONNX") as refused:
        protobuf.references(file)
    assert "\n" not in str(refused.value)
