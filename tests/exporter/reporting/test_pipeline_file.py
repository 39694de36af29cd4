"""goldfold.toml: what is read, and how what is wrong in it is named."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from goldfold.exporter.errors import UsageError
from goldfold.exporter.report.pipeline_file import Layout, PipelineFile, load
from goldfold.exporter.report.pipeline_start import START

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "goldfold.toml"


def test_the_starting_file_is_read_with_every_key_uncommented(file: Path) -> None:
    file.write_text(START, "utf-8")
    assert load(file).model == "packaged"
    whole = re.sub(r"^# (?=[\[a-z_]+[\].a-z0-9_-]* ?(=|\]|#|$))", "", START, flags=re.MULTILINE)
    file.write_text(whole, "utf-8")
    read, said = load(file), tomllib.loads(whole)
    assert set(said) == set(PipelineFile.__struct_fields__), "a key is not in the starting file"
    assert read.limits.of("onnxruntime", "fp32").worst == 1e-8
    assert read.limits.of("onnxruntime", "fp32").size_mb == 100
    assert read.limits.of("openvino", "int8").worst == 0.01
    assert read.layouts[0].server == "transformers.js"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "sub" / "model").mkdir(parents=True)
    file = tmp_path / "sub" / "goldfold.toml"
    file.write_text(
        'model = "model"\nprecisions = ["fp32", "mine.toml"]\nout = "artifacts"\n'
        '[cut]\nvocabulary = "../corpus.txt"\n'
        '[[layouts]]\nartifacts = ["a"]\nfor = "ovms"\nout = "served"\n'
    )
    found, folder = load(file), tmp_path / "sub"
    assert found.model == str(folder / "model") and found.out == str(folder / "artifacts")
    assert found.precisions == ("fp32", str(folder / "mine.toml"))
    assert found.cut.vocabulary == str(folder / ".." / "corpus.txt")
    assert found.layouts == (Layout(artifacts=("a",), server="ovms", out=str(folder / "served")),)
    file.write_text('model = "org/name"\n')
    assert load(file).model == "org/name"  # no such folder: a hub id


def test_windows_line_ends_and_a_bom_are_read(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbfmodel = "org/name"\r\ndims = [256]\r\n')
    assert load(file).dims == (256,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model = "m"\nprecison = ["fp32"]', ("line 2", "'precison'", "did you mean precisions?")),
        ('model = "m"\n[limits]\nsize = 3', ("line 3", "did you mean size_mb?")),
        ('model = "m"\n[limits.precision.int8]\nwrst = 3', ("line 3", "did you mean worst?")),
        ('model = "m"\nlimits.wrst = 3', ("line 2", "did you mean worst?")),
        ('model = "m"\n[limit]\nworst = 3', ("line 2", "did you mean limits?")),
        ('model = "m"\n[[layouts]]\nserver = "ovms"', ("line 3", "'server'")),
        ('model = "m"\nlimits = {zzz = 3}', ("table [limits]", "known: worst, mean")),
        ('model = "m"\ntargets = "openvino"', ("line 2", "targets", "array")),
        ('model = "m"\ntargets = []', ("line 2", "targets")),
        ('model = "m"\nmax_length = 0', ("line 2", "max_length")),
        ('model = "m"\nmax_length = 1e3', ("line 2", "max_length")),
        ('model = "m"\n[limits]\nworst = -1.0', ("line 3", "limits.worst")),
        ('model = "m"\n[limits]\nworst = nan', ("line 3", "limits.worst")),
        ('model = "m"\n[limits]\nworst = inf', ("line 3", "limits.worst")),
        ('model = "m"\n[limits]\nworst = true', ("line 3", "limits.worst")),
        ('model = "m"\n[limits]\nloss = 0.1', ("limits.loss", "judge = true")),
        ('targets = ["openvino"]', ("model", "missing")),
        ("", ("model", "missing")),
        ('model = "m"\nmodel = "n"', ("is no TOML", "Cannot overwrite")),
        ('model = "m', ("is no TOML", "Unterminated string")),
        ("x = " + "[" * 100_000, ("is no TOML", "nested")),
        ("model = " + "9" * 5000, ("goldfold.toml",)),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    file: Path, text: str, words: tuple[str, ...]
) -> None:
    file.write_text(text, "utf-8")
    with pytest.raises(UsageError) as found:
        load(file)
    said = str(found.value)
    assert "\n" not in said and str(file) in said
    for word in words:
        assert word in said, said


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="goldfold ci --init"):
        load(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'model = "m"\nname = "caf\xe9"\n')
    with pytest.raises(UsageError, match="line 2 is not UTF-8"):
        load(tmp_path / "latin.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load(tmp_path / "long.toml")


def test_the_published_schema_has_every_key_and_asks_for_the_model_alone() -> None:
    schema = json.loads((ROOT / "docs/schema/pipeline.schema.json").read_text("utf-8"))
    whole = schema["$defs"]["PipelineFile"]
    assert set(whole["properties"]) == set(PipelineFile.__struct_fields__)
    assert whole["required"] == ["model"] and whole["additionalProperties"] is False
    assert "for" in schema["$defs"]["Layout"]["properties"]


def test_what_is_asked_for_by_hand_leaves_the_rest_out(file: Path) -> None:
    file.write_text(
        'model = "m"\ntargets = ["openvino", "onnxruntime"]\n[options]\nopset = 20\nbatch = 4\n'
        "[limits.artifact.openvino-fp32]\nworst = 1.0\n[limits.precision.int8]\nworst = 1.0\n"
        '[[layouts]]\nartifacts = ["openvino-fp32"]\nfor = "ovms"\nout = "s"\n'
    )
    found = load(file).with_(targets=("onnxruntime",)).narrowed()
    assert found.options == {"opset": 20} and not found.layouts
    assert not found.limits.artifact and not found.limits.precision
