"""The tiny model as tracing leaves it, made once for all that stand in for a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.model import open_model
from exporter.program import Program
from exporter.simplify import simplify
from exporter.trace import trace


@pytest.fixture(scope="session")
def traced(tiny: Path) -> Program:
    """Before any law. Copy it (tests.conftest.copy_of) before it is rewritten."""
    program = trace(open_model(tiny))
    simplify(program)
    return program
