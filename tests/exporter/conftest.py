"""The tiny model as tracing leaves it, made once for all that stand in for a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.ir.program import Program


@pytest.fixture(scope="session")
def traced(tiny: Path) -> Program:
    """Before any law. Copy it before it is rewritten."""
    program = trace(open_model(tiny))
    simplify(program)
    return program
