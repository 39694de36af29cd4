"""The command run in this process, on the session's traced program and its short goldens."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goldfold.exporter.cli import app
from goldfold.exporter.driver import exporting
from goldfold.golden import store
from goldfold.golden.judging import pairs
from goldfold.golden.judging.pairs import Pair, Pairs
from tests.conftest import Exported
from tests.exporter.cli.outcome import Outcome, Run


@pytest.fixture
def goldfold(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def run(*args: object, debug: bool = False) -> Outcome:
        capsys.readouterr()
        code = app.guarded(partial(app.app, args=[str(arg) for arg in args]), debug)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def quick(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> store.Goldens:
    """Spare an export its trace and its reference; returns the goldens that it will use."""
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden").within(60)
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr(exporting, "traced", lambda *args: exported.copy())
    monkeypatch.setattr(exporting, "rewrite", lambda *args: None)
    return goldens


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pairs that need no scan of what is installed and that even a random model finds, forty of
    them at most, and a cache of the test's own."""
    drawn = np.random.default_rng(1).integers(0, 1000, (40, 12))
    texts = [" ".join(map(str, row)) for row in drawn]
    made = [Pair(f"{text} ?", f"{text} !") for text in texts]
    monkeypatch.setattr(pairs, "collect", lambda count: Pairs(tuple(made[:count]), f"{count:064d}"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if anything is traced, or asked of the reference."""

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("this must be refused before the model is run")

    monkeypatch.setattr("goldfold.exporter.frontend.trace.trace", never)
    monkeypatch.setattr("goldfold.golden.make.make", never)


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny-gemma3"))


@pytest.fixture
def artifact(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of an artifact to damage."""
    return Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))
