"""`goldfold verify --in` and `goldfold layout --for web`, run as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goldfold.golden.judging.pairs import LEAST
from tests.exporter.cli.outcome import Run, refused
from tests.targets import browsing


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDFOLD_CHROMIUM", "/no/chromium")
    monkeypatch.setenv("GOLDFOLD_NODE", "/no/node")


@pytest.mark.usefixtures("no_programs")
def test_a_program_that_is_not_there_is_never_passed(goldfold: Run, artifact: Path) -> None:
    before = (artifact / "verdict.json").read_bytes()
    done = goldfold("verify", artifact, "--in", "node", "--in", "chromium", "--quiet")
    assert done.code == 0
    assert done.out.count("NOT RUN") == 2 and "PASS" not in done.out
    for name in ("node", "chromium"):
        said = f"onnxruntime-fp32 in {name}: not run: GOLDFOLD_{name.upper()} names no program"
        assert said in done.err
    assert (artifact / "verdict.json").read_bytes() == before


@pytest.mark.usefixtures("no_programs")
def test_require_run_makes_it_an_error(goldfold: Run, artifact: Path) -> None:
    done = goldfold("verify", artifact, "--in", "chromium", "--require-run", "--json")
    assert done.code == 1
    (entry,) = json.loads(done.out)
    assert (entry["status"], entry["passed"], entry["code"]) == ("not run", False, 1)
    assert entry["measurement"] is None and entry["not_run"].startswith("GOLDFOLD_CHROMIUM")
    assert "--require-run: not run: onnxruntime-fp32 in chromium" in done.err


def test_json_has_the_figures_of_a_run(goldfold: Run, artifact: Path) -> None:
    browsing.need("node")
    done = goldfold("verify", artifact, "--in", "node", "--threads", "1", "--json")
    assert done.code == 0, done.err
    (entry,) = json.loads(done.out)
    assert (entry["in"], entry["threads"], entry["status"]) == ("node", 1, "passed")
    assert 0 < entry["measurement"]["mean"] <= entry["measurement"]["worst"] < 1e-9
    assert entry["seconds"] > 0 and entry["open_seconds"] > 0
    assert entry["engine"].startswith("Node v") and entry["runtime"] == "1.30.0"
    assert entry["canaries"]["count"] == 3 and entry["texts"] > 10


def test_places_and_options_that_do_not_go_together(
    goldfold: Run, artifact: Path, artifacts: dict[str, Path]
) -> None:
    refused(goldfold("verify", artifact, "--in", "safari"), 2, "--in safari", "node, chromium")
    refused(goldfold("verify", artifacts["openvino"], "--in", "node"), 2, "which knows: none")
    refused(
        goldfold("verify", artifact, "--in", "node", "--model", "x"), 2, "--in runs the goldens"
    )
    judged = ("--judge", "--pairs", LEAST)
    refused(goldfold("verify", artifact, "--in", "node", *judged), 2, "--in runs the goldens")


def test_a_damaged_artifact_is_refused(goldfold: Run, artifact: Path) -> None:
    (artifact / "model.onnx").write_bytes((artifact / "model.onnx").read_bytes()[:-1])
    refused(goldfold("verify", artifact, "--in", "node", "--quiet"), 6, "is damaged: model.onnx")


def test_layout_names_the_folder_of_npm_that_lacks_a_package(
    goldfold: Run, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLDFOLD_NODE_MODULES", "")  # so that it is put back
    words = ("layout", artifact, "--for", "web", "--out", tmp_path / "page")
    done = goldfold(*words, "--node-modules", tmp_path)
    refused(done, 4, "GOLDFOLD_NODE_MODULES", "holds no package", "--node-modules")
    assert list((tmp_path / "page").glob("*")) == []
