"""Matrices to the nearest integers of one grid, as a recipe without calibration plans them."""

from __future__ import annotations

import onnx_ir as ir

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.quantize_weights import QuantizeWeights
from goldfold.exporter.passes.rewriting.grid import Grid, nearest


def law(model: ir.Model, grid: Grid) -> QuantizeWeights:
    """The law that stores every matrix of `model` in `grid`; it refuses those that do not fit."""
    plan = {}
    for node in model.graph:
        held = QuantizeWeights().match(node)
        if held is not None:
            array = constant(held.stored)
            assert array is not None and held.stored.name
            matrix = array.T if held.transposed else array
            # A grid that does not fit is claimed all the same: the law is to refuse it.
            fits = grid if matrix.shape[1] % (grid.block or 1) == 0 else Grid(grid.bits)
            found = nearest(matrix, fits)
            plan[held.stored.name] = type(found)(grid, found.numbers, found.scale)
    return QuantizeWeights(plan=plan)
