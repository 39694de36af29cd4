"""Readers of formats: what they find in real files, and one line for files that are damaged."""

from __future__ import annotations

import os
import random
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import expressions, readers
from goldfold.golden.proof.check import check
from goldfold.golden.proof.source import Source
from tests.golden.proof import proof_toys as toys

FILES = {
    "onnx": ("model.onnx",),
    "openvino": ("openvino_model.xml",),
    "mlpackage": tuple(
        f"model.mlpackage/{name}"
        for name in (
            "Manifest.json",
            "Data/com.apple.CoreML/model.mlmodel",
            "Data/com.apple.CoreML/weights/weight.bin",
        )
    ),
}
ROUNDS = int(os.environ.get("GOLDFOLD_FUZZ", "300"))
MEMORY = 64 << 20
"""Bytes that a reader may take for a damaged file of some kilobytes."""


@pytest.fixture
def constants(tmp_path: Path) -> tuple[dict[str, np.ndarray], str]:
    return toys.program(toys.source(tmp_path / "model"), "int4")


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut out, repeated or put in."""
    held = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randrange(len(held) + 1), chance.choice((1, 1, 2, 4, 8, 200))
        match chance.randrange(5):
            case 0:
                held[at : at + size] = chance.randbytes(size)
            case 1:
                del held[at : at + size]
            case 2:
                held[at:at] = held[max(0, at - size) : at]
            case 3:
                held[at : at + size] = bytes([chance.choice((0, 1, 127, 128, 255))]) * size
            case _:
                del held[at:]
        held = held or bytearray(b"\0")
    return bytes(held)


@pytest.mark.parametrize(("form", "name"), [(f, n) for f, names in FILES.items() for n in names])
def test_damaged_artifacts_are_one_line_or_faults(
    tmp_path: Path, constants, form: str, name: str
) -> None:
    held, derivations = constants
    artifact = toys.write(form, tmp_path / "a", held)
    if form == "onnx":
        toys.write_onnx(artifact, held, inline=True)
    place = artifact / name
    raw, chance, refused = place.read_bytes(), random.Random(7), 0
    tracemalloc.start()
    for _ in range(ROUNDS):
        place.write_bytes(damaged(raw, chance))
        refused += refuses(lambda: check(artifact, derivations, tmp_path / "model"))
    assert refused > ROUNDS / 10
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()


def refuses(call: Callable[[], object]) -> bool:
    try:
        call()
    except GoldenError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return True
    return False


def test_damaged_sources_and_derivations_are_one_line(tmp_path: Path, constants) -> None:
    held, derivations = constants
    artifact, chance = toys.write("onnx", tmp_path / "a", held), random.Random(9)
    file = tmp_path / "model" / toys.NAME
    raw, refused = file.read_bytes(), 0
    for _ in range(ROUNDS):
        file.write_bytes(damaged(raw[:600], chance) + raw[600:])
        refused += refuses(lambda: check(artifact, derivations, tmp_path / "model"))
    file.write_bytes(raw)
    assert refused > ROUNDS / 5
    refused = 0
    for _ in range(2 * ROUNDS):
        text = damaged(derivations.encode(), chance).decode("utf-8", "replace")
        refused += refuses(lambda text=text: check(artifact, text, tmp_path / "model"))
    assert refused > ROUNDS / 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<layers>", "<!DOCTYPE x [<!ENTITY a 'b'>]><layers>"),
        ('<?xml version="1.0"?>', '<?xml version="1.0"?><!DOCTYPE net SYSTEM "file:///etc/passwd">'),
        ("<layers>", "<a>" * 100_000),
        ("<layers>", "<layers>&lol;"),
        ('shape="64"', 'shape="-64"'),
        ('shape="64"', 'shape="99999999999999999999"'),
        ('shape="64"', 'shape="1000000000, 1000000000, 1000000000"'),
        ('size="256"', 'size="100000000000000000"'),
        ('offset="0"', 'offset="999999999999"'),
    ],
)  # fmt: skip
def test_xml_is_read_safely(tmp_path: Path, constants, old: str, new: str) -> None:
    artifact = toys.write("openvino", tmp_path, {"gain": constants[0]["gain"]})
    place = artifact / "openvino_model.xml"
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new, 1))
    begun = time.perf_counter()
    with pytest.raises(GoldenError):
        readers.read(artifact)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("place", ["../model.onnx.data", "/etc/hostname", "", "a\0b", "x" * 5000])
def test_external_data_stays_in_its_folder(tmp_path: Path, constants, place: str) -> None:
    artifact = toys.write("onnx", tmp_path / "a", constants[0])
    (tmp_path / "model.onnx.data").write_bytes((artifact / "model.onnx.data").read_bytes())
    model = onnx.load(str(artifact / "model.onnx"), load_external_data=False)
    for one in model.graph.initializer:
        next(e for e in one.external_data if e.key == "location").value = place
    (artifact / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GoldenError, match=r"no place in its folder|cannot read"):
        readers.read(artifact)


def test_link_that_leads_out_is_no_place(tmp_path: Path, constants) -> None:
    artifact = toys.write("onnx", tmp_path / "a", constants[0])
    (artifact / "model.onnx.data").rename(tmp_path / "data")
    (artifact / "model.onnx.data").symlink_to(tmp_path / "data")
    with pytest.raises(GoldenError, match="no place in its folder"):
        readers.read(artifact)


def test_source_may_be_links_of_a_hub(tmp_path: Path) -> None:
    tensors = toys.source(tmp_path / "blobs")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / toys.NAME).symlink_to(tmp_path / "blobs" / toys.NAME)
    source = Source(tmp_path / "model")
    np.testing.assert_array_equal(source.raw(toys.NAME, "w"), tensors["w"])
    source.close()


def test_every_spelling_of_a_tensor_is_read(tmp_path: Path) -> None:
    """Raw bytes, and a field of each type, as onnx writes them."""
    random_ = np.random.default_rng(0)
    arrays = [
        (random_.normal(size=(3, 4)) * 100).astype(kind)
        for kind in ("f4", "f8", "f2", "i1", "i2", "i4", "i8")
    ]
    arrays += [np.arange(12).astype(kind) for kind in ("u1", "u2", "u4", "u8", "?")]
    arrays += [np.array(5, np.int64), np.zeros((0, 3), np.float32)]
    tensors = []
    for n, array in enumerate(arrays):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        flat = array.reshape(-1)
        tensors.append(helper.make_tensor(f"{n}", kind, array.shape, flat.tolist()))
        tensors.append(helper.make_tensor(f"{n}r", kind, array.shape, array.tobytes(), raw=True))
    codes = helper.make_tensor("c", onnx.TensorProto.INT4, (5,), [-8, 7, 0, -1, 3])
    node = helper.make_node(
        "Constant", [], ["attribute"], value=helper.make_tensor("", 1, (2,), [1, 2])
    )
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([node], "g", [value], [value], [*tensors, codes])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    found = {one.name: one for one in readers.read(tmp_path).stored}
    for n, array in enumerate(arrays):
        for name in (f"{n}", f"{n}r"):
            held = found[name]
            np.testing.assert_array_equal(held.numbers().reshape(held.shape), array, strict=True)
    assert found["c"].numbers().tolist() == [-8, 7, 0, -1, 3]
    assert found["attribute"].numbers().tolist() == [1, 2]


def test_numbers_in_a_package_are_read(tmp_path: Path) -> None:
    scalar = np.float32(0.5).reshape(())
    toys.write_mlpackage(tmp_path, {"e": scalar, "w": np.ones((2, 3), np.float32)}, inline=("e",))
    found = {one.name: one for one in readers.read(tmp_path).stored}
    assert found["e"].numbers().tolist() == [0.5] and found["e"].shape == ()
    assert found["w"].numbers().tolist() == [1] * 6
    proof = check(tmp_path, toys.text(), None)
    assert [one.name for one in proof.small] == ["e"]  # as an attribute, in the structure
    assert [one.name for one in proof.uncovered] == ["w"]


@pytest.mark.parametrize("form", FILES)
def test_structure_is_of_the_graph_and_not_of_its_numbers(tmp_path: Path, form: str) -> None:
    def structure(constants: dict[str, np.ndarray], edit: tuple[bytes, bytes] = (b"", b"")) -> str:
        artifact = toys.write(form, tmp_path, constants)
        place = artifact / FILES[form][-1].replace("weights/weight.bin", "model.mlmodel")
        raw = place.read_bytes()
        assert edit[0] in raw
        place.write_bytes(raw.replace(*edit) if edit[0] else raw)
        return readers.read(artifact).digest()

    w = {"w": np.ones((2, 3), np.float32)}
    first = structure(w)
    assert structure({"w": np.zeros((2, 3), np.float32)}) == first
    assert structure({"w": np.zeros((3, 2), np.float32)}) != first
    edits = {
        "onnx": [(b"Softmax", b"Sigmoid"), (b"batch", b"bitch")],
        "openvino": [(b"opset1", b"opset2"), (b'G value="0"', b'G value="1"')],
        "mlpackage": [(b"CoreML8", b"CoreML9"), (b"const", b"canst")],
    }[form]
    for edit in edits:
        assert structure(w, edit) != first
    if form == "openvino":
        assert structure(w, (b'tool value="1"', b'tool value="2"')) == first


def test_reader_of_derivations_takes_what_it_is_given() -> None:
    name = 'a "quoted" \\ name%1, (x)'
    array = np.array([[1.5, -0.0]], np.float32)
    line = toys.line(name, array, "literal('float32', [1, 2], (1.5, -0.0,))")
    found = expressions.read(toys.text(line, "", line.replace("quoted", "other"))).constants
    assert [one.name for one in found] == [name, name.replace("quoted", "other")]
    assert found[0].value.args == ("float32", (1, 2), (1.5, -0.0))
    assert re.fullmatch("[0-9a-f]{64}", found[0].digest) and found[1].line == 4


def test_checker_stays_small() -> None:
    """What is no reader of a format, without comments and blank lines, so that it can be read."""
    import ast

    folder = Path(readers.__file__).parent
    counted = 0
    for name in ("arithmetic", "evaluate", "matching", "relations", "check"):
        tree = ast.parse((folder / f"{name}.py").read_text("utf-8"))
        said = {
            line
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for line in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        lines = (folder / f"{name}.py").read_text("utf-8").splitlines()
        counted += sum(
            bool(line.strip()) and not line.strip().startswith("#") and number not in said
            for number, line in enumerate(lines, 1)
        )
    assert counted <= 740, counted
