"""`verify`, `embed`, `inspect`, `targets`, `golden make`, and how errors themselves are shown."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goldfold import __version__, load
from goldfold.exporter.artifact import bundle
from goldfold.golden import make as golden_make
from goldfold.golden import store
from tests import models
from tests.conftest import GOLDEN_TEXTS
from tests.exporter.cli.outcome import Run, flip, names, refused

ROOT = Path(__file__).parents[3]


# --- verify


def test_verify_checks_all_artifacts_of_a_folder(goldfold: Run, artifacts: dict[str, Path]) -> None:
    outcome = goldfold("verify", artifacts["openvino"].parent, "--json", "--threads", "1")
    assert (outcome.code, outcome.err) == (0, "")
    entries = json.loads(outcome.out)
    assert [entry["target"] for entry in entries] == ["onnxruntime", "openvino"]
    assert all(entry["passed"] for entry in entries)


def test_verify_names_every_damaged_file(
    goldfold: Run, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    for target, folder in artifacts.items():
        keys = sorted(bundle.read_manifest(folder).files)
        assert len(keys) >= 6
        for number, key in enumerate([*keys, "manifest.json"]):
            copy = Path(shutil.copytree(folder, tmp_path / f"{target}-{number}"))
            flip(copy / key)
            refused(goldfold("verify", copy, "--quiet"), 6, copy, key)
            shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("damage", "culprits"),
    [
        (lambda a: (a / "tokenizer.json").unlink(), ["tokenizer.json", "missing"]),
        (lambda a: (a / "model.onnx").unlink(), ["model.onnx", "missing"]),
        (lambda a: (a / "extra.txt").write_text("x"), ["extra.txt", "does not name"]),
        (lambda a: (a / "manifest.json").unlink(), ["manifest.json", "not an artifact"]),
        (lambda a: (a / "manifest.json").write_text("{"), ["manifest.json", "malformed"]),
        (lambda a: (a / "verdict.json").write_text("[1"), ["verdict.json", "malformed"]),
        (shutil.rmtree, ["no such folder"]),
    ],
)
def test_verify_refuses(
    damage: Callable[[Path], Any], culprits: list[str], artifact: Path, goldfold: Run
) -> None:
    damage(artifact)
    for command in (
        ("verify", artifact, "--quiet"),
        ("inspect", artifact),
        ("embed", artifact, "x"),
    ):
        refused(goldfold(*command), 6, artifact, *culprits)


def test_verify_survives_a_lost_verdict_and_writes_a_new_one(artifact: Path, goldfold: Run) -> None:
    (artifact / "verdict.json").unlink()
    refused(goldfold("embed", artifact, "text"), 6, "never verified", "goldfold verify")
    assert goldfold("verify", artifact, "--quiet").code == 0
    assert goldfold("embed", artifact, "text").code == 0


def test_verify_where_the_target_is_not_installed(
    goldfold: Run, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goldfold.targets.openvino.find_spec", lambda name: None)
    refused(goldfold("verify", artifacts["openvino"], "--quiet"), 4, "goldfold[openvino]")


# --- embed


def test_embed_prints_a_row_a_text(goldfold: Run, artifacts: dict[str, Path]) -> None:
    folder = artifacts["onnxruntime"]
    outcome = goldfold("embed", folder, "one", "two [bold]", "--prompt", "query")
    assert (outcome.code, outcome.err) == (0, "")
    rows = np.array([line.split() for line in outcome.out.splitlines()], dtype=np.float32)
    expected = load(folder).embed(["one", "two [bold]"], "query")
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


def test_embed_as_json_saved_and_shortened(
    goldfold: Run, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folder, file = artifacts["openvino"], tmp_path / "rows.npy"
    outcome = goldfold("embed", folder, "one", "two", "--dims", "8", "--json")
    rows = np.array(json.loads(outcome.out), dtype=np.float32)
    assert goldfold("embed", folder, "one", "two", "--dims", "8", "--save", file).out == ""
    np.testing.assert_allclose(np.load(file), rows, rtol=1e-6)
    assert rows.shape == (2, 8)
    assert names(tmp_path) == {"rows.npy"}


def test_embed_reads_lines(
    goldfold: Run, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifacts["onnxruntime"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\nthree\n"))
    rows = np.array(json.loads(goldfold("embed", folder, "-", "--json").out), dtype=np.float32)
    np.testing.assert_allclose(rows, load(folder).embed(["one", "", "three"]), rtol=1e-5, atol=1e-7)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert goldfold("embed", folder, "-").out == ""


@pytest.mark.parametrize(
    ("args", "code", "culprits"),
    [
        ([], 2, ["at least one text"]),
        (["x", "--prompt", "haiku"], 2, ["'haiku'", "Clustering, STS, document, query"]),
        (["x", "--dims", "9999"], 2, ["9999"]),
        (["x", "--save", "/proc/goldfold.npy"], 5, ["/proc/goldfold.npy"]),
        (["x", "--save", f"{__file__}/rows.npy"], 5, ["rows.npy"]),
    ],
)
def test_embed_refuses(
    args: list[str], code: int, culprits: list[str], goldfold: Run, artifacts: dict[str, Path]
) -> None:
    refused(goldfold("embed", artifacts["onnxruntime"], *args), code, *culprits)


# --- inspect, targets, version


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_inspect_shows_what_is_inside(
    target: str, goldfold: Run, artifacts: dict[str, Path]
) -> None:
    outcome = goldfold("inspect", artifacts[target], "--census")
    assert (outcome.code, outcome.err) == (0, "")
    words = ["tiny-gemma3", target, "PASS", "48", "600 tokens", "query", "tokenizer.json"]
    words += ["fuse-identity-dense", "fold-norm-gain", "RMS" if target == "openvino" else "MatMul"]
    for word in words:
        assert word in outcome.out
    assert "…" not in outcome.out, "a table was cut off"


def test_inspect_as_json(goldfold: Run, artifacts: dict[str, Path]) -> None:
    found = json.loads(goldfold("inspect", artifacts["onnxruntime"], "--census", "--json").out)
    assert found["manifest"]["contract"]["dim"] == 48
    assert found["manifest"]["attention"] == {"all": 1, "window 257": 5}
    assert found["verdict"]["status"] == "passed"
    assert sum(found["census"].values()) > 50
    assert json.loads(goldfold("inspect", artifacts["onnxruntime"], "--json").out)["census"] is None


def test_targets_and_version(goldfold: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert goldfold("--version").out == f"goldfold {__version__}\n"
    outcome = goldfold("targets")
    assert outcome.code == 0
    assert outcome.out.index("onnxruntime") < outcome.out.index("openvino")
    monkeypatch.setattr("goldfold.targets.openvino.find_spec", lambda name: None)
    assert "pip install 'goldfold[openvino]'" in goldfold("targets").out


def test_a_target_without_packages_for_this_platform_says_so(
    goldfold: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goldfold.targets.coreml.lower.vendor.find_spec", lambda name: None)
    monkeypatch.setattr("goldfold.exporter.registry.platform.system", lambda: "Linux")
    monkeypatch.setattr("goldfold.exporter.registry.platform.machine", lambda: "aarch64")
    said = goldfold("targets").out
    assert "packages for Linux x86_64, Darwin arm64, Darwin x86_64, not Linux aarch64" in said
    assert "pip install 'goldfold[coreml]'" not in said


# --- goldens


def test_golden_make_writes_a_store(
    goldfold: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.build("bert", tmp_path / "tiny-bert")
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
    out = tmp_path / "goldens"
    outcome = goldfold("golden", "make", source, "--out", out, "--name", "bertie")
    assert outcome.code == 0
    assert outcome.out.strip() == str(out)
    assert "✓ goldens" in outcome.err
    goldens = store.load(out)
    assert goldens.model == "bertie"
    assert {case.id for case in goldens.cases} == set(GOLDEN_TEXTS)
    assert store.find(goldens.fingerprint, (tmp_path,)) == out
    # Once more on top of itself, and the bytes are the same.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = goldfold("golden", "make", source, "--out", out, "--name", "bertie", "--quiet")
    assert (again.code, again.err) == (0, "")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.usefixtures("untraced")
def test_golden_make_replaces_nothing_but_goldens(
    goldfold: Run, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    outcome = goldfold("golden", "make", tiny, "--out", tmp_path, "--quiet")
    refused(outcome, 5, tmp_path, "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years"
    file = tmp_path / "thesis.tex"
    refused(goldfold("golden", "make", tiny, "--out", file, "--quiet"), 5, file)
    refused(goldfold("golden", "make", tiny, "--out", file / "x", "--quiet"), 5, file / "x")


# --- errors themselves


def test_debug_shows_the_traceback(goldfold: Run, tmp_path: Path) -> None:
    args = ("verify", tmp_path / "nowhere", "--quiet")
    assert "Traceback" not in goldfold(*args).err
    shown = goldfold("--debug", *args, debug=True)
    assert "Traceback" in shown.err
    assert shown.code == 6
    assert shown.err.splitlines()[-1].startswith("error: ")


def test_brackets_and_control_characters_in_names_are_shown_harmlessly(goldfold: Run) -> None:
    refused(goldfold("verify", "/nowhere/[/red]x[bold]", "-q"), 6, "/nowhere/[/red]x[bold]")
    outcome = goldfold("verify", "/nowhere/\x1b[31m\nred", "-q")
    refused(outcome, 6, "/nowhere/")
    assert "\x1b" not in outcome.err


def test_fault_that_nobody_foresaw_is_one_line(
    goldfold: Run, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr("goldfold.exporter.artifact.encoder.open_bundle", breaks)
    refused(goldfold("embed", artifacts["openvino"], "x"), 7, "ZeroDivisionError: oh", "--debug")


def test_reader_that_goes_away_is_no_error(artifacts: dict[str, Path]) -> None:
    command = f"{sys.executable} -m goldfold inspect --json {artifacts['onnxruntime']} | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
