"""Layouts of artifacts that strangers made: nothing lands outside, nothing in them becomes a node
or a file that is used."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.errors import ArtifactError, OutputError
from goldfold.exporter.system import names
from goldfold.targets.openvino import model_file, serving
from tests.torture.tortures.damage import reseal, write_manifest

NAMES = (
    "../../../lib/python3/site-packages", "..", "/etc", "C:\\Windows", "\\\\host\\share", "a/b",
    'a"\n}\nnode {\n  name: "evil', "config.json", "CON", "", "a\0b", "x" * 400, "字", "a.", "-rf",
    "\u202egnp", "{name}", "%s",
)  # fmt: skip


@pytest.fixture
def artifact(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["openvino"], tmp_path / "in" / "openvino-fp32"))


def call(folder: Path, name: str) -> None:
    record = json.loads((folder / "manifest.json").read_bytes())
    record["contract"]["model"] = name
    write_manifest(folder, record)


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_s_name_is_never_a_path(name: str, artifact: Path, tmp_path: Path) -> None:
    call(artifact, name)
    place = tmp_path / "a" / "b" / "c"
    place.mkdir(parents=True)
    before = below(tmp_path)
    done = lay_out(artifact, "ovms", place / "models")
    made = below(tmp_path) - before
    assert made and all(path.startswith("a/b/c/models") for path in made)
    folders = {path.name for path in done.path.iterdir()} - {"config.json"}
    called = min(folders, key=len)
    assert folders == {called, f"{called}-tensors"}
    assert names.is_name(called) and (done.path / "config.json").is_file()
    config = json.loads((done.path / "config.json").read_text("utf-8"))
    assert config["mediapipe_config_list"] == [{"name": called, "base_path": called}]
    graph = (done.path / called / "graph.pbtxt").read_text("ascii")
    assert re.findall(r"^node \{", graph, re.MULTILINE) == ["node {"]
    assert f'  name: "{called}"' in graph.splitlines()
    assert called == name or any(f"is served as {called!r}" in note for note in done.notes)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'), ('a"b\\c\n', '"a\\042b\\134c\\012"'), ("ü\x1b", '"\\303\\274\\033"'),
        ("it's", '"it\'s"'), ("", '""'), ("\ud800", '"?"'),
    ],
)  # fmt: skip
def test_strings_of_a_graph_are_quoted(text: str, quoted: str) -> None:
    assert serving._quoted(text) == quoted


def test_either_mark_is_quoted_within_itself() -> None:
    assert serving._quoted("it's", "'") == "'it\\047s'"
    text_format = pytest.importorskip("google.protobuf.text_format")
    from google.protobuf import struct_pb2

    for text in ("a\"b'c\\d\n\x1b", "字 🧀 \u202e", "\x00\x7f"):
        for mark in "\"'":
            read = text_format.Parse(
                f"string_value: {serving._quoted(text, mark)}", struct_pb2.Value()
            )
            assert read.string_value == text


@pytest.mark.parametrize("said", ["64'}\nnode {", "", "-1", "1e3", "9" * 30])
def test_a_group_is_a_number(said: str, artifact: Path, tmp_path: Path) -> None:
    """It stands in the graph's text, and comes from the artifact's own file."""
    file = artifact / model_file.XML
    text = file.read_text("utf-8")
    nothing = f'<{model_file.GROUP} value="0" />'
    assert nothing in text
    odd = said.replace("\n", "&#10;").replace("'", "&apos;")
    file.write_text(text.replace(nothing, f'<{model_file.GROUP} value="{odd}" />'), "utf-8")
    reseal(artifact)
    with pytest.raises(ArtifactError, match="asks for groups of"):
        lay_out(artifact, "ovms", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("layout", ["ovms", "sentence-transformers"])
def test_what_a_desktop_left_is_in_no_layout(layout: str, artifact: Path, tmp_path: Path) -> None:
    for key in (".DS_Store", "._tokenizer.json", "Thumbs.db", "@eaDir/tokenizer.json"):
        (artifact / key).parent.mkdir(exist_ok=True)
        (artifact / key).write_text("left")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").write_text("left")
    out = lay_out(artifact, layout, tmp_path / "out").path
    for path in out.rglob("*"):
        assert path.is_dir() or path.read_bytes() != b"left", path


def test_what_lies_in_the_folder_meanwhile_stays(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").mkdir()
    (tmp_path / "out" / ".DS_Store" / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match="cannot write"):
        lay_out(artifact, "ovms", tmp_path / "out")
    assert (tmp_path / "out" / ".DS_Store" / "thesis.tex").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_links_are_served_as_what_they_lead_to(artifact: Path, tmp_path: Path) -> None:
    """As an artifact lies in the hub's cache."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in sorted(p for p in artifact.rglob("*") if p.is_file()):
        blob = blobs / path.name
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))
    out = lay_out(artifact, "sentence-transformers", tmp_path / "out").path
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert (out / "openvino" / model_file.XML).read_bytes() == (blobs / model_file.XML).read_bytes()


def test_an_artifact_that_is_replaced_meanwhile_is_laid_out_whole(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(artifact, tmp_path / "in" / "other"))
    call(other, "the-later-one")
    lay = serving.lay_out

    def replaced(folder: Path, *args: object) -> tuple[str, ...]:
        artifact.rename(artifact.with_name("earlier"))
        other.rename(artifact)
        return lay(folder, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(serving, "lay_out", replaced)
    out = lay_out(artifact, "ovms", tmp_path / "out").path
    assert not (out / "the-later-one").exists()
    assert open_bundle(artifact).manifest.contract.model == "the-later-one"


def test_errors_name_the_artifact_and_not_where_it_was_gathered(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flipped = artifact / "tokenizer.json"
    flipped.write_text(flipped.read_text("utf-8").replace("a", "b", 1), "utf-8")
    with pytest.raises(ArtifactError) as caught:
        lay_out(artifact, "ovms", tmp_path / "out")
    assert f"{artifact} is damaged: tokenizer.json" in str(caught.value)
    assert bundle.MANIFEST and ".goldfold-" not in str(caught.value)
