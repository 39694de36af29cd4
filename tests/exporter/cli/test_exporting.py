"""`goldfold export`: what it prints, what an interruption leaves, and what misses its gate.

Exports here reuse the session's traced program and its goldens, cut to the short ones.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goldfold import load
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import ArtifactError
from goldfold.golden import store
from tests.exporter.cli.outcome import PAIR, Run, names, refused

ROOT = Path(__file__).parents[3]


# --- an export that goes well


def test_export_shows_progress_a_table_and_where_it_went(
    goldfold: Run, quick: store.Goldens, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "[bold]out"  # brackets are no markup
    both = ("--target", "onnxruntime", "--target", "openvino")
    outcome = goldfold("export", tiny, *both, "--out", out)
    assert outcome.code == 0
    for stage in ("open", "goldens", "build onnxruntime-fp32", "verify openvino-fp32"):
        assert f"✓ {stage}" in outcome.err
    for word in ("onnxruntime-fp32", "openvino-fp32", "PASS", str(out / "openvino-fp32")):
        assert word in outcome.out
    assert any(case.id in outcome.out for case in quick.cases)  # the worst text
    assert names(out) == {"onnxruntime-fp32", "openvino-fp32"}


@pytest.mark.usefixtures("quick")
def test_quiet_export_shows_results_only(goldfold: Run, tiny: Path, tmp_path: Path) -> None:
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert "PASS" in outcome.out


def test_json_export_is_one_object_a_program_can_read(
    goldfold: Run, quick: store.Goldens, tiny: Path, tmp_path: Path
) -> None:
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--json", "--name", "toy")
    assert (outcome.code, outcome.err) == (0, "")
    (entry,) = json.loads(outcome.out)
    assert entry["path"] == str(tmp_path / "onnxruntime-fp32")
    assert (entry["target"], entry["precision"]) == ("onnxruntime", "fp32")
    assert entry["passed"] is True
    assert (entry["status"], entry["stand_in"], entry["not_run"]) == ("passed", "", "")
    assert entry["texts"] == len(quick.cases)
    assert entry["reasons"] == []
    assert entry["bytes"] > 100_000
    assert 0 <= entry["measurement"]["worst"] <= 1e-6
    assert entry["measurement"]["worst_id"] in {case.id for case in quick.cases}


# --- an export that is interrupted


@pytest.mark.usefixtures("quick")
def test_ctrl_c_leaves_nothing_half_made(
    goldfold: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(program: Any, folder: Path, target: str) -> None:
        (folder / "model.onnx").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("goldfold.exporter.ir.onnx_file.write", interrupted)
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet")
    assert outcome.code == 130
    assert outcome.err == "interrupted; nothing half-made is left\n"
    assert not names(tmp_path)


# No pass runs, and the build hangs half-way.
HANGING = """
import sys, time
from pathlib import Path
from goldfold.exporter.cli import app
from goldfold.exporter.driver import exporting
from goldfold.exporter.passes import pipeline
from goldfold.golden import store
from goldfold.exporter.ir import onnx_file

model, goldens, out = sys.argv[1:]

def hang(program, folder, target):
    (folder / "model.onnx").write_bytes(b"half")
    time.sleep(60)

onnx_file.write = hang
pipeline.Pipeline.run = lambda self, program, passes: []
exporting.rewrite = lambda *args: None
exporting.obtain_goldens = lambda *args: store.load(Path(goldens))
sys.argv = ["goldfold", "export", model, "--target", "onnxruntime", "--out", out]
app.main()
"""


def test_real_signal_leaves_nothing_half_made(
    tiny: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, tiny, artifacts["onnxruntime"] / "golden", tmp_path],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        # A shell that runs tests in the background makes its children deaf to the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob(".goldfold-*/*/model.onnx")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted; nothing half-made is left"
    assert not names(tmp_path)


def test_failing_build_leaves_nothing_and_keeps_what_was_there(
    goldfold: Run,
    quick: store.Goldens,
    tiny: Path,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def breaks(program: Any, folder: Path, target: str) -> None:
        raise OSError(28, "No space left on device", str(folder / "model.onnx.data"))

    monkeypatch.setattr("goldfold.exporter.ir.onnx_file.write", breaks)
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet")
    refused(outcome, 5, tmp_path, "No space left on device")
    assert names(tmp_path) == {"onnxruntime-fp32"}
    assert load(artifact).contract.dim == 48


# --- the gate


def test_artifact_that_misses_its_gate(
    goldfold: Run, quick: store.Goldens, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("export", tiny, *PAIR, "--out", tmp_path)
    good, failed = tmp_path / "onnxruntime-fp32", tmp_path / "onnxruntime-fp32.failed"
    assert goldfold(*args, "--quiet").code == 0
    before = (good / "manifest.json").read_bytes()

    # The reference now says something else of every text.
    wrong = replace(quick, embeddings=np.roll(quick.embeddings, 1, axis=0))
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *_: wrong)
    outcome = goldfold(*args, "--json")
    (entry,) = json.loads(outcome.out)
    assert entry["path"] == str(failed)
    assert entry["passed"] is False
    assert any("1-cos" in reason for reason in entry["reasons"])
    refused(replace(outcome, out=""), 1, failed, "missed the golden gate")
    assert names(tmp_path) == {good.name, failed.name}
    assert (good / "manifest.json").read_bytes() == before
    assert load(good).contract.dim == 48

    with pytest.raises(ArtifactError, match="missed its golden gate"):
        load(failed)
    refused(goldfold("embed", failed, "text"), 6, failed, "goldfold verify")

    outcome = goldfold("verify", failed, "--quiet")
    assert outcome.code == 1
    assert "FAIL" in outcome.out
    assert "1-cos" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in outcome.err
    assert goldfold("inspect", failed).code == 0

    monkeypatch.setattr(exporting, "obtain_goldens", lambda *_: quick)
    assert goldfold(*args, "--quiet").code == 0
    assert names(tmp_path) == {good.name}


def test_tokenizer_that_drifts_fails_the_gate(
    goldfold: Run, quick: store.Goldens, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = quick.cases[0]
    drifted = replace(case, token_ids=(*case.token_ids[:-2], 7, 1))
    wrong = replace(quick, cases=(drifted, *quick.cases[1:]))
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *_: wrong)
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--json")
    assert outcome.code == 1
    reasons = json.loads(outcome.out)[0]["reasons"]
    assert any(f"tokens of {case.id} differ" in reason for reason in reasons)
