"""A tiny EmbeddingGemma: traced and legal, rewritten, and with a NaN in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.driver.preparing import legalized, traced
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program, constant
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages


@pytest.fixture(scope="session")
def legal_gemma(tiny: Path) -> Program:
    """Copy it before it is rewritten."""
    return legalized(traced(open_model(tiny), Stages()), Pipeline())


@pytest.fixture(scope="module")
def program(legal_gemma: Program) -> Program:
    """Rewritten by the common laws, its gains kept. Copy it before it is quantized."""
    copy = legal_gemma.copy()
    pipeline.run(copy, pipeline.common(copy.contract, "none"))
    return copy


@pytest.fixture
def spoiled(program: Program) -> Program:
    """The same with a NaN in its first gain."""
    copy = program.copy()
    gain = next(n.inputs[1] for n in copy.graph if n.op_type == "RMSNormalization")
    assert gain is not None
    array = np.array(constant(gain))
    array[0] = np.nan
    gain.const_value = ir.tensor(array, name=gain.name)
    return copy
