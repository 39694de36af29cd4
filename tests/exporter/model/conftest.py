"""A small sound model to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import models


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.build("bert-dense-tanh", tmp_path_factory.mktemp("source") / "tiny-bert")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy to be damaged: Transformer, 1_Pooling, 2_Dense, 3_LayerNorm, 4_Normalize."""
    return Path(shutil.copytree(pristine, tmp_path / "tiny-bert"))
