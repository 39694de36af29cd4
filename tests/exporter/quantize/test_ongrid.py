"""Checkpoints trained with rounded weights: their own integers are found, or the recipe refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter import records
from goldfold.exporter.errors import UsageError
from goldfold.exporter.ir import derivation
from goldfold.exporter.ir.program import Program, add_constant, constant
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.rewriting.grid import Grid
from goldfold.exporter.quantize import plan, sites
from goldfold.exporter.quantize.qat_grid import recovered
from goldfold.exporter.quantize.recipe import Recipe, shipped

GRIDS = (Grid(8), Grid(8, 32), Grid(4), Grid(4, 32))


def _made(grid: Grid, seed: int, channels: int = 24, inputs: int = 64) -> np.ndarray:
    """A matrix on `grid`, f32 [channels, inputs]."""
    rng = np.random.default_rng(seed)
    blocks = grid.blocks(inputs)
    sizes = np.exp(rng.normal(-4, 1, (channels, blocks, 1))).astype(np.float32)
    spread = grid.high / 3
    numbers = np.clip(
        np.rint(rng.normal(0, spread, (channels, blocks, inputs // blocks))), grid.low, grid.high
    )
    numbers[0] = 0
    return (sizes * numbers).astype(np.float32).reshape(channels, inputs)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(seed=st.integers(0, 2**16), stored=st.sampled_from(["f32", "bf16"]))
@settings(max_examples=15, deadline=None)
def test_what_was_on_a_grid_is_found_again(grid: Grid, seed: int, stored: str) -> None:
    matrix = _made(grid, seed)
    if stored == "bf16" and grid.bits == 8:
        return  # 127 steps of a half percent: not even the right integers are sure
    held = matrix.astype(ml_dtypes.bfloat16).astype(np.float32) if stored == "bf16" else matrix
    found = recovered(held, grid)
    assert found is not None
    # As near as fp16 holds the scale, and bf16 held the numbers.
    off = np.abs(found.dense() - matrix)
    assert (off <= np.abs(matrix) * (2.0**-8 if stored == "bf16" else 2.0**-10) + 1e-7).all()
    assert found.numbers.min() >= grid.low and found.numbers.max() <= grid.high


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(seed=st.integers(0, 2**16))
@settings(max_examples=10, deadline=None)
def test_other_matrices_are_on_no_grid(grid: Grid, seed: int) -> None:
    free = np.random.default_rng(seed).normal(0, 0.02, (24, 64)).astype(np.float32)
    assert recovered(free, grid) is None


def test_a_coarser_grid_is_no_finer_one() -> None:
    assert recovered(_made(Grid(8), 3), Grid(4)) is None
    assert recovered(_made(Grid(4, 32), 3), Grid(4)) is None


def _rewritten(legal_gemma: Program) -> Program:
    copy = legal_gemma.copy()
    pipeline.run(copy, pipeline.common(copy.contract, "none"))
    return copy


def _matrices(program: Program) -> list[ir.Value]:
    """The constants that MatMul multiplies with, each once."""
    held = dict.fromkeys(node.inputs[1] for node in program.graph if node.op_type == "MatMul")
    return [v for v in held if v is not None and (a := constant(v)) is not None and a.ndim == 2]


WEIGHTS = {"bits": 4, "block": 16, "rounding": "qat"}
RECIPE = records.read(Recipe, {**shipped()["qat"].plain(), "weights": WEIGHTS})


def test_a_trained_grid_survives_the_common_laws_to_the_bit(legal_gemma: Program) -> None:
    """Every map of a checkpoint is put on a grid; after all laws the stored integers are those."""
    grid, trained = Grid(4, 16), legal_gemma.copy()
    trained.derived = False  # its maps follow from no model
    maps = {s.place for s in sites.find(_rewritten(trained)) if s.kind not in ("table", "head")}
    for seed, value in enumerate(_matrices(trained)):
        inputs, channels = (int(str(size)) for size in value.shape or ())
        made = np.ascontiguousarray(_made(grid, seed, channels, inputs).T)
        name, how = str(value.name), derivation.given(str(value.name))
        value.const_value = add_constant(trained.graph, name, made, how).const_value
    program, placed = _rewritten(trained), 0
    for site in sites.find(program):
        if site.place in maps:
            found = recovered(np.asarray(site.matrix), grid)
            assert found is not None, site.place
            off = np.abs(found.dense() - site.matrix)
            assert (off <= np.abs(site.matrix) * 2.0**-10 + 1e-7).all()
            placed += 1
    assert placed == len(maps)
    laws = plan.passes(RECIPE, program, [])  # no texts: nothing has to be weighed
    pipeline.run(program, laws)
    assert sum(n.op_type == "DequantizeLinear" for n in program.graph) >= len(maps)


def test_a_checkpoint_off_the_grid_is_refused_by_name(legal_gemma: Program) -> None:
    with pytest.raises(UsageError, match=r"\(query\) does not lie on a grid of 4 bits"):
        plan.passes(RECIPE, _rewritten(legal_gemma), [])
