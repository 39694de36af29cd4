"""An artifact as a stranger hands it over: what lies in it beside its files, whose verdict it
brings, what its files refer to, and what changes while it is opened."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from goldfold import load
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.diff import differences
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.report.collect import collect
from goldfold.exporter.report.inspection import inspect
from goldfold.exporter.verification.verifying import verify
from tests.exporter.test_bundle import make, on, refuse, reseal, verdict
from tests.torture.tortures.damage import write_manifest


@pytest.fixture
def artifact(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))


@pytest.fixture
def openvino(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["openvino"], tmp_path / "openvino-fp32"))


def seal_again(folder: Path) -> None:
    """Correct every digest, as somebody would who means harm."""
    record = json.loads((folder / "manifest.json").read_bytes())
    for key, entry in record["files"].items():
        raw = (folder / key).read_bytes()
        entry.update(sha256=hashlib.sha256(raw).hexdigest(), size=len(raw))
    write_manifest(folder, record)


# --- what lies there


@pytest.mark.parametrize(
    "key",
    [".DS_Store", "._model.onnx", "golden/Thumbs.db", "desktop.ini", "Desktop.ini", ".directory",
     "@eaDir/model.onnx@SynoEAStream", "__MACOSX/._load.py", "golden/._golden.json", "Icon\r",
     ".nfs00000000015cd3c300000001", ".fuse_hidden0000000100000001", "verdict.json.new"],
)  # fmt: skip
def test_what_a_desktop_leaves_is_ignored(key: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / key).parent.mkdir(exist_ok=True)
    (folder / key).write_bytes(b"left")
    assert open_bundle(folder).verdict is not None
    assert key not in set(bundle.files_of(folder))


@pytest.mark.parametrize(
    ("put", "named"),
    [
        (lambda f: (f / "numpy.py").write_text("x"), "numpy.py"),
        (lambda f: (f / ".hidden").write_text("x"), ".hidden"),
        (lambda f: os.mkfifo(f / "pipe"), "pipe"),
        (lambda f: (f / "link").symlink_to("model.onnx"), "link"),
        (lambda f: (f / "deep").symlink_to("golden"), "deep"),
        (lambda f: (f / "DS_Store").write_text("x"), "DS_Store"),
        (lambda f: (f / "verdict.json.old").write_text("x"), "verdict.json.old"),
        (lambda f: (f / "load.pyc").write_text("x"), "byte code"),
        (lambda f: (f / "golden" / "x.PYC").write_text("x"), "byte code"),
        (lambda f: ((f / "__pycache__").mkdir(), (f / "__pycache__" / "x").write_text("")),
         "byte code"),
    ],
)  # fmt: skip
def test_whatever_else_lies_there_is_refused(
    put: Callable[[Path], object], named: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "a")
    put(folder)
    refuse(folder, named, "remove it")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("a\\b", "it has \\"), ("C:x", "it has :"), ("x.", "ends in a dot"), ("nul", "device"),
        ("x/", "empty"), ("./x", "folder's own"), ("a\x1b[2Jb", "do not show"),
        ("a\u202eb", "do not show"), ("manifest.json", "cannot be counted"),
        ("verdict.json", "cannot be counted"), ("__pycache__/load.cpython-311.pyc", "counted"),
        ("MODEL.onnx", "one file to some systems"), ("/x", "outside"), ("../x", "outside"),
    ],
)  # fmt: skip
def test_names_in_a_manifest_are_looked_at_first(key: str, why: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    entry = {"sha256": "0" * 64, "size": 1}
    reseal(folder, lambda record: record["files"].update({key: entry}))
    refuse(folder, why)


@pytest.mark.parametrize("field", ["target", "precision"])
@pytest.mark.parametrize("value", ["../x", "a/b", "", "a\nb", "-x", "x" * 65])
def test_what_becomes_part_of_a_folder_s_name_is_plain(
    field: str, value: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / "a")
    reseal(folder, lambda record: record.update({field: value}))
    refuse(folder, field)


def test_a_fingerprint_is_no_path(tmp_path: Path) -> None:
    """It names files of the user's cache."""
    folder = make(tmp_path / "a")
    reseal(folder, lambda record: record["origin"].update(fingerprint="../" * 20 + "f" * 4))
    refuse(folder, "fingerprint")


# --- byte code


def test_importing_the_loader_leaves_no_byte_code(openvino: Path) -> None:
    code = (
        "import sys; sys.dont_write_bytecode = False; sys.path.insert(0, sys.argv[1]); import load;"
        " from pathlib import Path; assert Path(load.__file__).parent == Path(sys.argv[1]);"
        " assert load.embed(['x']).shape[0] == 1; assert 'openvino_telemetry' in sys.modules;"
        " assert sys.modules['openvino_telemetry'] is None"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    before = {path: path.read_bytes() for path in openvino.rglob("*") if path.is_file()}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(openvino)],
            env=environment,
            capture_output=True,
            text=1,
        )
        assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in openvino.rglob("*") if path.is_file()} == before
    assert not (openvino / "__pycache__").exists()


def test_planted_byte_code_is_never_taken_for_the_loader_s(openvino: Path, tmp_path: Path) -> None:
    """Python would run it: it bears the time and the size of the source that it is not of."""
    planted = tmp_path / "load.py"
    size = (openvino / "load.py").stat().st_size
    planted.write_text("print('planted')" + "#" * (size - 16))
    shutil.copystat(openvino / "load.py", planted)
    cache = openvino / "__pycache__" / f"load.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(planted), str(cache))
    for opened in (load, verify, open_bundle):
        with pytest.raises(ArtifactError, match="byte code"):
            opened(openvino)


# --- what files refer to


def refer(folder: Path, location: str) -> None:
    """Have `model.onnx` read its weights from `location`, where they lie as well."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for said in tensor.external_data:
            if said.key == "location":
                said.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    place = folder / location
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "model.onnx.data", place)
    seal_again(folder)


@pytest.mark.parametrize(
    "location",
    ["verdict.json.new", ".DS_Store", "@eaDir/weights", "manifest.json", "../weights",
     "./model.onnx.data", "golden/../model.onnx.data"],
)  # fmt: skip
def test_weights_lie_in_a_file_that_the_manifest_names(location: str, artifact: Path) -> None:
    refer(artifact, location)
    for opened in (load, verify, lambda folder: inspect(folder, census=True)):
        with pytest.raises(ArtifactError, match="which its manifest does not name") as caught:
            opened(artifact)
        assert repr(location) in str(caught.value)
    assert "which its manifest does not name" in str(differences(artifact, artifact.parent / "b"))


@pytest.fixture(autouse=True)
def another(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """Something to compare with."""
    shutil.copytree(artifacts["onnxruntime"], tmp_path / "b")


def test_weights_in_an_attribute_are_found_as_well(artifact: Path) -> None:
    model = onnx.load(artifact / "model.onnx", load_external_data=False)
    hidden = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], b"\0" * 4, raw=True)
    hidden.ClearField("raw_data")
    hidden.data_location = onnx.TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="../secret")
    node = onnx.helper.make_node("Constant", [], ["spare"], value=hidden)
    inner = onnx.helper.make_graph([node], "inner", [], [])
    outer = onnx.helper.make_node("If", ["spare"], [], then_branch=inner, else_branch=inner)
    model.graph.node.append(outer)
    (artifact / "model.onnx").write_bytes(model.SerializeToString())
    seal_again(artifact)
    with pytest.raises(ArtifactError, match=r"reads '\.\./secret'"):
        load(artifact)


def test_what_is_no_graph_is_said_in_one_line(artifact: Path) -> None:
    for raw in (b"graph", b""):
        (artifact / "model.onnx").write_bytes(raw)
        seal_again(artifact)
        with pytest.raises(ArtifactError) as caught:
            load(artifact)
        assert len(str(caught.value).splitlines()) == 1 and "model.onnx" in str(caught.value)


# --- huge files


@pytest.mark.parametrize(
    ("key", "size"),
    [("golden/golden.json", 17 << 20), ("golden/embeddings.npy", 65 << 20),
     ("tokenizer.json", 65 << 20), ("model.onnx", 65 << 20)],
)  # fmt: skip
def test_files_larger_than_any_are_refused_before_they_are_read(
    key: str, size: int, artifact: Path
) -> None:
    with (artifact / key).open("r+b") as file:
        file.truncate(size)
    seal_again(artifact)
    with pytest.raises(ArtifactError, match=f"larger than {(size >> 20) - 1} MiB") as caught:
        verify(artifact)
    assert str(artifact) in str(caught.value) and Path(key).name in str(caught.value)


@pytest.mark.parametrize("key", ["manifest.json", "verdict.json"])
def test_records_of_holes_are_no_records(key: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    with (folder / key).open("r+b") as file:
        file.truncate(1 << 30)
    refuse(folder, key, "larger than 16 MiB")
    (folder / key).write_text("[" + "1," * 600_000 + "1]")
    refuse(folder, key, "more than 524,288 values")


# --- whose verdict


def test_another_artifact_s_verdict_is_refused_everywhere(
    artifact: Path, artifacts: dict[str, Path]
) -> None:
    shutil.copy(artifacts["openvino"] / "verdict.json", artifact)
    for look in (load, verify, inspect, open_bundle):
        with pytest.raises(ArtifactError, match=r"another artifact's.*goldfold verify"):
            look(artifact)
    (reported,) = collect([artifact]).artifacts
    assert reported.state == "damaged" and "another artifact's" in reported.reasons[0]
    (artifact / "verdict.json").unlink()
    assert verify(artifact).passed
    load(artifact)


def test_a_verdict_without_an_artifact_is_to_be_made_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    record = json.loads((folder / "verdict.json").read_bytes())
    del record["format"], record["manifest"]
    (folder / "verdict.json").write_text(json.dumps(record))
    refuse(folder, "of another version of goldfold", "goldfold verify")
    record |= {"format": "goldfold.verdict/9", "manifest": "0" * 64}
    (folder / "verdict.json").write_text(json.dumps(record))
    refuse(folder, "of another version of goldfold", "goldfold verify")
    (folder / "verdict.json").write_text(json.dumps(record | {"format": "else"}))
    refuse(folder, "malformed", "format")


def test_a_verdict_names_the_manifest_s_file(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    opened = open_bundle(folder)
    assert opened.verdict == on(folder, verdict(True))
    assert opened.verdict.manifest == bundle.digest(folder / "manifest.json")


# --- what changes meanwhile


def test_a_file_that_changes_before_the_runtime_has_it_is_noticed(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_bundle(artifact)
    weights = (artifact / "model.onnx.data").read_bytes()
    (artifact / "fresh").write_bytes(weights)
    os.utime(artifact / "fresh", (1, 1))
    (artifact / "fresh").rename(artifact / "model.onnx.data")  # even by one of the same bytes
    with pytest.raises(ArtifactError, match=r"was changed while it was opened: model\.onnx\.data"):
        open_encoder(opened)
    assert load(artifact).embed(["a text"]).shape == (1, 48)


def test_the_tokenizer_is_the_one_whose_digest_was_taken(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (artifact / "tokenizer.json").read_text("utf-8")
    monkeypatch.setattr(
        "goldfold.exporter.artifact.runnable.read_tokenizer",
        lambda path: text.replace('"id":4,', '"id":5,', 1).encode() + b" ",
    )
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        load(artifact)


def test_golden_ranges_are_of_the_artifact_that_was_opened(
    artifact: Path, artifacts: dict[str, Path]
) -> None:
    encoder = load(artifact)
    rows = encoder.embed(["a text"], output="int8")
    assert rows.dtype == np.int8
    file = artifact / "golden" / "golden.json"
    file.write_text(file.read_text("utf-8").replace("the", "thE", 1), "utf-8")
    with pytest.raises(ArtifactError, match="since it was opened"):
        encoder.embed(["a text"], output="int8")
