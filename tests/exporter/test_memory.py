"""What an export lets go of."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from goldfold import export
from goldfold.exporter.driver import exporting, proving
from goldfold.golden import store
from tests.conftest import Exported


def test_last_program_is_gone_before_its_artifact_is_measured(
    exported: Exported, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")
    held: list[weakref.ref] = []
    alive: list[bool] = []
    prove = proving.prove

    def prepared(*args, **options):
        program = exported.program.copy()
        held.append(weakref.ref(program.model))
        return program

    def proved(*args):
        alive.append(held[0]() is not None)
        return prove(*args)

    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr(exporting, "traced", prepared)
    monkeypatch.setattr(exporting, "rewrite", lambda *args: None)
    monkeypatch.setattr(proving, "prove", proved)
    results = export(tiny, ["onnxruntime"], ["fp32", "fp16"], tmp_path / "out")
    assert [result.passed for result in results] == [True, True]
    assert alive == [True, False]  # the second artifact has used it up
