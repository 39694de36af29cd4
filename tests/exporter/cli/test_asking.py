"""What the command line refuses before any work: models, targets, options, output folders.

The codes are those of exporter/errors.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from goldfold.exporter.errors import GoldfoldError, UsageError
from tests.exporter.cli.outcome import PAIR, Run, names, refused

ROOT = Path(__file__).parents[3]


def test_exit_codes_are_the_documented_ones() -> None:
    import goldfold.exporter.errors

    rows = [
        line.split("|")
        for line in (goldfold.exporter.errors.__doc__ or "").splitlines()
        if "`" in line
    ]
    documented = {cells[2].strip(" `"): int(cells[1]) for cells in rows if len(cells) > 3}
    kinds = [*GoldfoldError.__subclasses__(), *UsageError.__subclasses__()]
    own = [kind for kind in kinds if not kind.__module__.startswith("tests.")]
    assert documented == {kind.__name__: kind.code for kind in own}


# --- models that cannot be exported


def _no_config(model: Path) -> None:
    (model / "modules.json").unlink()
    (model / "config.json").unlink()


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
        (_no_config, ["neither modules.json nor config.json"]),
        (_truncated, ["model.safetensors", "cut off"]),
        (_missing, ["model.safetensors"]),
        (_pickled, ["pytorch_model.bin", "safetensors"]),
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
    monkeypatch.setattr("goldfold.targets.openvino.find_spec", lambda name: None)
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
