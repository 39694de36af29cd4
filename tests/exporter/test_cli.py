"""The command line: what it prints, what it refuses in one line, and with which exit code.

The codes are those of exporter/errors.py. Exports here reuse the session's traced program and its
goldens, cut to the short ones; only what this file is about runs for real.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import golden.make
from exporter import __version__, bundle, cli, exporting, load
from exporter.errors import ArtifactError, GoldfoldError
from golden import store
from tests import models
from tests.conftest import GOLDEN_TEXTS, Exported

ROOT = Path(__file__).parents[2]
PAIR = ("--target", "onnxruntime", "--precision", "fp32")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def goldfold(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def run(*args: object, debug: bool = False) -> Outcome:
        capsys.readouterr()
        code = cli.guarded(partial(cli.app, args=[str(arg) for arg in args]), debug)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def quick(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> store.Goldens:
    """Spare an export its trace and its reference; returns the goldens that it will use."""
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden").within(60)
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr(exporting, "prepare", lambda *args: exported.copy())
    return goldens


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if anything is traced, or asked of the reference."""

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("this must be refused before the model is run")

    monkeypatch.setattr("exporter.trace.trace", never)
    monkeypatch.setattr("golden.make.make", never)


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny-gemma3"))


@pytest.fixture
def artifact(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of an artifact to damage."""
    return Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))


def refused(outcome: Outcome, code: int, *culprits: object) -> None:
    """One line on standard error, nothing on standard output, the documented code, the culprit."""
    assert outcome.err.endswith("\n")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    for culprit in culprits:
        assert str(culprit) in outcome.err
    assert outcome.code == code


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def test_exit_codes_are_the_documented_ones() -> None:
    import exporter.errors

    rows = [line.split("|") for line in (exporter.errors.__doc__ or "").splitlines() if "`" in line]
    documented = {cells[2].strip(" `"): int(cells[1]) for cells in rows if len(cells) > 3}
    assert documented == {kind.__name__: kind.code for kind in GoldfoldError.__subclasses__()}


# --- models that cannot be exported


def _no_modules(model: Path) -> None:
    (model / "modules.json").unlink()


def _truncated(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _missing(model: Path) -> None:
    (model / "model.safetensors").unlink()


def _pickled(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _unknown_module(model: Path) -> None:
    file = model / "modules.json"
    file.write_text(file.read_text().replace("modules.normalize.Normalize", "models.Blender"))
    assert "Blender" in file.read_text() or pytest.fail("modules.json is spelt differently")


def _not_a_number(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["layers.2.mlp.up_proj.weight"][5, 7] = np.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("damage", "culprits"),
    [
        (shutil.rmtree, ["no such folder"]),
        (_no_modules, ["modules.json"]),
        (_truncated, ["model.safetensors", "cut off"]),
        (_missing, ["model.safetensors"]),
        (_pickled, ["pytorch_model.bin", "--trust-remote-code"]),
        (_unknown_module, ["modules.json", "Blender"]),
        (_not_a_number, ["model.safetensors", "'layers.2.mlp.up_proj.weight'", "[5, 7]"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_model_is_refused(
    damage: Callable[[Path], None], culprits: list[str], model: Path, tmp_path: Path, goldfold: Run
) -> None:
    damage(model)
    outcome = goldfold("export", model, *PAIR, "--out", tmp_path / "out", "--quiet")
    refused(outcome, 3, "tiny-gemma3", *culprits)
    assert not names(tmp_path / "out")


@pytest.mark.usefixtures("untraced")
def test_file_is_no_model(goldfold: Run, model: Path, tmp_path: Path) -> None:
    file = model / "model.safetensors"
    refused(goldfold("export", file, *PAIR, "--out", tmp_path / "out", "-q"), 3, file, "is a file")


# --- asked for what does not exist


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("target", "precision", "code", "culprits"),
    [
        ("abacus", "fp32", 2, ["target 'abacus'", "onnxruntime, openvino"]),
        ("onnxruntime", "int7", 2, ["precision 'int7'", "fp32"]),
        ("onnxruntime", "bf16", 4, ["onnxruntime does not offer", "'bf16'", "fp32"]),
        ("onnxruntime", "bf16", 4, ["onnxruntime does not offer", "'bf16'"]),
    ],
)
def test_target_or_precision_is_refused_before_the_model_is_opened(
    target: str, precision: str, code: int, culprits: list[str], goldfold: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ("--target", target, "--precision", "fp32", "--precision", precision)
    refused(goldfold("export", tmp_path / "nowhere", *asked, "--out", out), code, *culprits)
    assert not out.exists()


@pytest.mark.usefixtures("untraced")
def test_target_that_is_not_installed_says_which_extra(
    goldfold: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targets.openvino.find_spec", lambda name: None)
    outcome = goldfold("export", tiny, "--target", "openvino", "--out", tmp_path / "out")
    refused(outcome, 4, "openvino is not installed", "pip install 'goldfold[openvino]'")


@pytest.mark.parametrize(
    ("args", "culprit"),
    [
        (["export"], "'model'"),
        (["export", "x", "--colour", "red"], "--colour"),
        (["verify"], "'folders'"),
        (["embed", "x", "text", "--batch-size", "0"], "'--batch-size'"),
        (["embed", "x", "text", "--dims", "many"], "'--dims'"),
        (["transmogrify"], "'transmogrify'"),
    ],
)
def test_command_line_that_makes_no_sense(args: list[str], culprit: str, goldfold: Run) -> None:
    outcome = goldfold(*args)
    refused(outcome, 2)
    assert culprit.lower() in outcome.err.lower()


def test_no_command_shows_the_help(goldfold: Run) -> None:
    outcome = goldfold()
    assert "export" in outcome.out
    assert outcome.err == ""
    assert outcome.code == 2


# --- where the output goes


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_output_that_cannot_be_written(
    force: tuple[str, ...], goldfold: Run, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    places = [(file, "is a file"), (file / "below", "file/below")]
    places += [(Path("/proc/goldfold/out"), "/proc/goldfold/out")]
    for out, culprit in places:
        refused(goldfold("export", tiny, *PAIR, "--out", out, "--quiet", *force), 5, out, culprit)
    assert file.read_text() == "mine"


@pytest.mark.usefixtures("untraced")
def test_output_folder_that_holds_something_else_is_left_alone(
    goldfold: Run, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet")
    refused(outcome, 5, tmp_path, "letters", "--force")
    assert names(tmp_path) == {"letters"}
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"


@pytest.mark.usefixtures("quick")
def test_force_writes_beside_what_is_there(goldfold: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet", "--force")
    assert outcome.code == 0
    assert names(tmp_path) == {"letters", "onnxruntime-fp32"}
    assert (tmp_path / "letters" / "a.txt").read_text() == "dear"


@pytest.mark.usefixtures("untraced")
def test_even_force_replaces_nothing_but_artifacts(
    goldfold: Run, tiny: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "onnxruntime-fp32"
    mine.mkdir()
    (mine / "a.txt").write_text("dear")
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet", "--force")
    refused(outcome, 5, mine)
    assert (mine / "a.txt").read_text() == "dear"


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

    monkeypatch.setattr("exporter.onnxfile.write", interrupted)
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet")
    assert outcome.code == 130
    assert outcome.err == "interrupted; nothing half-made is left\n"
    assert not names(tmp_path)


# Everything before the build is skipped, and the build itself hangs half-way.
HANGING = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from exporter import cli, exporting, pipeline
from golden import store
from exporter import onnxfile

model, goldens, out = sys.argv[1:]

def hang(program, folder, target):
    (folder / "model.onnx").write_bytes(b"half")
    time.sleep(60)

onnxfile.write = hang
pipeline.Pipeline.run = lambda self, program, passes: []
exporting.prepare = lambda *args: SimpleNamespace(
    census=dict, attention=dict, contract=SimpleNamespace(max_length=600)
)
exporting.obtain_goldens = lambda *args: store.load(Path(goldens))
sys.argv = ["goldfold", "export", model, "--target", "onnxruntime", "--out", out]
cli.main()
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
        deadline = time.monotonic() + 60
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

    monkeypatch.setattr("exporter.onnxfile.write", breaks)
    outcome = goldfold("export", tiny, *PAIR, "--out", tmp_path, "--quiet")
    refused(outcome, 7, "model.onnx.data", "No space left on device")
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
    monkeypatch.setattr("targets.openvino.find_spec", lambda name: None)
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
    assert found["verdict"]["passed"] is True
    assert sum(found["census"].values()) > 50
    assert json.loads(goldfold("inspect", artifacts["onnxruntime"], "--json").out)["census"] is None


def test_targets_and_version(goldfold: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert goldfold("--version").out == f"goldfold {__version__}\n"
    outcome = goldfold("targets")
    assert outcome.code == 0
    assert outcome.out.index("onnxruntime") < outcome.out.index("openvino")
    monkeypatch.setattr("targets.openvino.find_spec", lambda name: None)
    assert "not installed" in goldfold("targets").out


# --- goldens


def test_golden_make_writes_a_store(
    goldfold: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.build("bert", tmp_path / "tiny-bert")
    monkeypatch.setattr(golden.make, "make", partial(golden.make.make, only=GOLDEN_TEXTS))
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

    monkeypatch.setattr("exporter.encoder.open_bundle", breaks)
    refused(goldfold("embed", artifacts["openvino"], "x"), 7, "ZeroDivisionError: oh", "--debug")


def test_reader_that_goes_away_is_no_error(artifacts: dict[str, Path]) -> None:
    command = f"{sys.executable} -m exporter inspect --json {artifacts['onnxruntime']} | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
