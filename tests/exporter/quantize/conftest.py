"""A tiny EmbeddingGemma, traced and legal, before any common law."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model import open_model
from exporter.pipeline import Pipeline
from exporter.preparing import legal
from exporter.program import Program
from exporter.stages import Stages


@pytest.fixture(scope="session")
def legal_gemma(tiny: Path) -> Program:
    """Copy it before it is rewritten."""
    return legal(open_model(tiny), Stages(), Pipeline())
