"""One tiny model, exported once a session for both targets, and what came out on the way."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from goldfold import export
from goldfold.exporter.driver import exporting
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import set_precision
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import PassReport
from goldfold.golden import make as golden_make

# Before anything imports it: its asserts are explained as those of a test are.
pytest.register_assert_rewrite("tests.exporter.passes.harness")

# Before torch is loaded: on models this small a second thread only waits for the first, and on a
# machine with other work to do it waits forty times as long as the work takes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test that plants a fault in a stage must not find that stage finished, nor leave it for others.
os.environ["GOLDFOLD_CACHE"] = ""

GOLDEN_TEXTS = (
    "card-query", "english-titled", "german-query", "russian", "chinese", "code-python",
    "emoji-single", "empty", "blank-spaces", "one-letter", "prompt-query", "prompt-document",
    "length-16", "length-257", "length-600", "length-672",
)  # fmt: skip
"""Enough for the gate to mean something, few enough to verify in a second."""


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> None:
    """An export collects garbage before it measures; what lives from here on is not looked at."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@dataclass(frozen=True)
class Exported:
    """The session's export: its artifacts by target, and the program before any target's tail."""

    artifacts: dict[str, Path]
    program: Program
    reports: list[PassReport]

    def copy(self) -> Program:
        """The program, to be used up; shares the weights with the original."""
        return self.program.copy()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny EmbeddingGemma: look, do not touch."""
    from tests import models  # here, so that collecting tests does not load torch

    return models.build("gemma3", tmp_path_factory.mktemp("source") / "tiny-gemma3")


@pytest.fixture(scope="session")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One real export of `tiny`, with fewer golden texts than usual."""
    kept: list[tuple[Program, list[PassReport]]] = []
    rewrite = exporting.rewrite

    def rewrite_and_keep(program: Program, recipe: None, passes: Pipeline, stages: Stages) -> None:
        rewrite(program, recipe, passes, stages)
        kept.append((program.copy(), list(passes.reports)))

    few = partial(golden_make.make, only=GOLDEN_TEXTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "rewrite", rewrite_and_keep)
        patch.setattr(golden_make, "make", few)
        out = tmp_path_factory.mktemp("artifacts")
        results = export(tiny, ["openvino", "onnxruntime"], ["fp32"], out)
    assert all(result.passed for result in results)
    paths = {result.bundle.manifest.target: result.path for result in results}
    return Exported(paths, *kept[0])


@pytest.fixture
def half_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """set-precision takes the residual stream as well, as a runtime without f32 would."""
    monkeypatch.setattr(set_precision, "sums_computed", lambda node: False)


@pytest.fixture(scope="session")
def artifacts(exported: Exported) -> dict[str, Path]:
    """Target → artifact folder. Copy one (shutil.copytree) before damaging it."""
    return exported.artifacts
