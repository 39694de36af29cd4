"""The command run in this process, on the session's traced program and its short goldens."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exporter import cli, exporting
from golden import store
from tests.conftest import Exported
from tests.exporter.cli.outcome import Outcome, Run


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
    monkeypatch.setattr(exporting, "legal", lambda *args: exported.copy())
    monkeypatch.setattr(exporting, "rewrite", lambda *args: None)
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
