"""`goldfold coreml-run`: outputs, faults by name, one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

pytest.importorskip("coremltools")

from goldfold.exporter.cli.app import app
from goldfold.exporter.cli.exit_codes import guarded
from tests.exporter import small
from tests.targets.coreml.test_target import package  # noqa: F401 — the fixture


def call(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    code = guarded(lambda **how: app(["coreml-run", *map(str, arguments)], **how), debug=False)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_runs_and_saves(capsys, package: Path, tmp_path: Path) -> None:  # noqa: F811
    code, out, _ = call(capsys, package, "--ids", "3,4,5", "--save", tmp_path / "out")
    assert code == 0
    assert "sentence_embedding" in out
    assert "tokens_16 (of tokens_16, tokens_4)" in out
    assert np.load(tmp_path / "out" / "sentence_embedding.npy").shape == (1, small.DIM)


@pytest.mark.parametrize("precision", ["declared", "f32", "f64"])
def test_every_precision_and_function(capsys, package: Path, precision: str) -> None:  # noqa: F811
    arguments = ("--seed", 1, "--precision", precision, "--function", "tokens_4")
    assert call(capsys, package, *arguments)[0] == 0


def test_against_the_onnx_program(capsys, package: Path, tmp_path: Path) -> None:  # noqa: F811
    program = small.program()
    ir.save(program.model, tmp_path / "same.onnx")
    code, out, _ = call(capsys, package, "--ids", "3,4", "--against", tmp_path / "same.onnx")
    assert (code, "values agree with" in out) == (0, True)
    next(n for n in program.graph if n.op_type == "Tanh").op_type = "Sigmoid"
    ir.save(program.model, tmp_path / "other.onnx")
    code, _, err = call(capsys, package, "--ids", "3,4", "--against", tmp_path / "other.onnx")
    assert code == 1
    assert "drift, first at t (tanh)" in err


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ((), 2, "give --input NAME=FILE.npy for input_ids"),
        (("--ids", "1,x"), 2, "is no list of numbers"),
        (("--ids", ",".join(["1"] * 17)), 2, "17 token ids; the function takes 16"),
        (("--ids", "1", "--function", "f"), 2, "no function 'f'"),
        (("--ids", "1", "--precision", "fp4"), 2, "no precision 'fp4'"),
        (("--input", "ids"), 2, "is not NAME=FILE.npy"),
        (("--input", "input_ids=none.npy"), 2, "none.npy is no .npy file"),
        (("--ids", "1", "--against", "none.onnx"), 2, "none.onnx is no ONNX model"),
    ],
)
def test_mistakes_are_one_line(capsys, package: Path, arguments, code, reason) -> None:  # noqa: F811
    got, _, err = call(capsys, package, *arguments)
    assert (got, len(err.strip().splitlines())) == (code, 1)
    assert reason in err


def test_a_foreign_folder_is_an_artifact_error(capsys, tmp_path: Path) -> None:
    code, _, err = call(capsys, tmp_path, "--seed", "1")
    assert code == 6
    assert "is no .mlpackage" in err
