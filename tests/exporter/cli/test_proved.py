"""An artifact that did not itself run here, in its precision, is proved and not passed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goldfold import load, verify
from goldfold.exporter.artifact.bundle import VERDICT
from goldfold.golden import store
from goldfold.targets.onnxruntime import OnnxRuntime
from tests.exporter.cli.outcome import PAIR, Run, names

AWAY = "its device is in another city"
HALF = ("--target", "onnxruntime", "--precision", "fp16", "--no-cache")


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This machine cannot run what it builds for ONNX Runtime: the target opens it all the same,
    and calls that a stand-in."""
    monkeypatch.setattr(OnnxRuntime, "cannot_run", lambda self, folder=None: AWAY)
    monkeypatch.setattr(OnnxRuntime, "reference_name", lambda self, precision: "a\nstand-in")
    return monkeypatch


@pytest.mark.usefixtures("away")
def test_export_says_what_stood_in_and_ends_with_0(
    goldfold: Run, quick: store.Goldens, tiny: Path, tmp_path: Path
) -> None:
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "PROVED" in outcome.out and "PASS" not in outcome.out + outcome.err
    assert f"proved by a stand-in; not run on its device: {AWAY}" in outcome.out
    assert f"PROVED (a stand-in; not run on its device: {AWAY})" in " ".join(outcome.err.split())
    assert f" {len(quick.cases)} " in outcome.out
    assert names(tmp_path) == {"onnxruntime-fp32"}
    assert "PROVED" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.usefixtures("away", "quick")
def test_require_run_makes_a_proof_a_miss(goldfold: Run, tiny: Path, tmp_path: Path) -> None:
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--require-run", "--quiet")
    folder = tmp_path / "onnxruntime-fp32"
    unrun = f"error: --require-run: proved, but not run in its precision here: {folder}"
    assert outcome.code == 1 and outcome.err.strip() == unrun
    assert names(tmp_path) == {folder.name}  # not .failed: it may be run elsewhere
    again = goldfold("verify", folder, "--require-run", "--json")
    (entry,) = json.loads(again.out)
    assert (again.code, entry["code"], entry["status"], entry["passed"]) == (1, 1, "proved", True)
    assert again.err.strip() == unrun
    assert entry["not_run"] == f"not run on its device: {AWAY}"
    without = goldfold("verify", folder, "--json")
    assert (without.code, json.loads(without.out)[0]["code"]) == (0, 0)


@pytest.mark.usefixtures("quick")
def test_the_device_turns_a_proof_into_a_pass(
    goldfold: Run, away: pytest.MonkeyPatch, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "onnxruntime-fp32"
    assert goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet").code == 0
    found = goldfold("inspect", folder).out
    assert "PROVED, over" in found and AWAY in found and "stand-in" in found
    away.undo()
    assert len(load(folder).embed(["a text"])) == 1  # what is proved is opened
    result = verify(folder)
    assert (result.passed, result.status, result.verdict.stand_in) == (True, "passed", "")
    record = json.loads((folder / VERDICT).read_text())
    assert (record["status"], record["stand_in"], record["not_run"]) == ("passed", "", "")
    assert goldfold("verify", folder, "--require-run").code == 0
    assert "PASS, over" in goldfold("inspect", folder).out


@pytest.mark.usefixtures("quick")
def test_half_precision_that_is_computed_in_fp32_is_proved(
    goldfold: Run, tiny: Path, tmp_path: Path
) -> None:
    outcome = goldfold("export", tiny, *HALF, "--out", tmp_path, "--quiet")
    folder = tmp_path / "onnxruntime-fp16"
    assert outcome.code == 0 and "PROVED" in outcome.out, outcome
    words = " ".join(outcome.out.split())
    assert (
        "proved by this file, computed in fp32, and its program at its export in goldfold's"
        in words
    )
    assert "not run in fp16: onnxruntime computes it in fp32 on this machine" in words
    result = verify(folder)
    assert result.status == "proved" and "emulator" in result.verdict.stand_in
    assert goldfold("verify", folder, "--require-run", "--quiet").code == 1
    (folder / VERDICT).unlink()  # and with it the emulator's figures
    alone = verify(folder)
    assert alone.status == "failed" and "nothing proves fp16 here" in alone.verdict.sentences[0]
    assert "emulator" not in alone.verdict.stand_in
