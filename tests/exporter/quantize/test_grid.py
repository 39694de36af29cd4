"""Rounding: every number on its grid, within half a step, and better where it may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.passes.rewriting.grid import Grid, Quantized, nearest, scales
from goldfold.exporter.quantize.gptq import Order, compensated

GRIDS = [Grid(8), Grid(8, 16), Grid(4), Grid(4, 16)]


def _matrix(seed: int, channels: int = 12, inputs: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.standard_t(3, (channels, inputs)).astype(np.float32)
    found[0] = 0.0  # a channel of nothing
    return found


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([1e-6, 1.0, 1e3]))
@settings(max_examples=20, deadline=None)
def test_the_nearest_integer_is_within_half_a_step(grid: Grid, seed: int, size: float) -> None:
    matrix = _matrix(seed) * np.float32(size)
    found = nearest(matrix, grid, search=False)
    assert found.numbers.min() >= grid.low and found.numbers.max() <= grid.high
    steps = np.repeat(found.scale, matrix.shape[1] // found.scale.shape[1], axis=1)
    # The scale is rounded to fp16 (2^-11, or 2^-25 where fp16 has no more digits): what lies at the
    # end of the range may then be clipped by as much.
    slack = np.abs(matrix) * 2.0**-11 + abs(grid.low) * 2.0**-25
    assert (np.abs(found.dense() - matrix) <= steps / 2 * 1.0001 + slack).all()


def test_every_scale_is_a_number_of_fp16() -> None:
    for grid in GRIDS:
        scale = nearest(_matrix(1), grid).scale
        assert (scale.astype(np.float16).astype(np.float32) == scale).all() and (scale > 0).all()


def test_searching_a_scale_never_costs_and_importance_counts() -> None:
    matrix, grid = _matrix(2), Grid(4, 16)
    importance = np.random.default_rng(0).gamma(0.3, 1.0, 64)

    def cost(found: Quantized) -> float:
        return float((((found.dense() - matrix) ** 2) * importance).sum())

    plain = nearest(matrix, grid, search=False)
    alike, weighted = nearest(matrix, grid), nearest(matrix, grid, importance)
    assert cost(weighted) < cost(alike) and cost(weighted) < cost(plain)
    assert ((alike.dense() - matrix) ** 2).sum() < ((plain.dense() - matrix) ** 2).sum()


def test_a_table_is_rounded_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = _matrix(3)
    whole = nearest(matrix, Grid(4, 16))
    monkeypatch.setattr("goldfold.exporter.passes.rewriting.grid._CHUNK", 200)
    parts = nearest(matrix, Grid(4, 16))
    assert (whole.numbers == parts.numbers).all() and (whole.scale == parts.scale).all()


@pytest.mark.parametrize("grid", [Grid(8), Grid(4, 16)], ids=str)
def test_compensation_brings_the_outputs_closer(grid: Grid) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((400, 64)) @ rng.standard_normal((64, 64)) * rng.gamma(1, 1, 64)
    matrix, moments = _matrix(4), x.T @ x / len(x)
    rounded = nearest(matrix, grid, np.diag(moments))
    moved = compensated(matrix, grid, Order.of(moments))
    assert (moved.scale == scales(matrix, grid, np.diag(moments))).all()

    def cost(found: Quantized) -> float:
        return float(np.linalg.norm(x @ (found.dense() - matrix).T))

    assert cost(moved) < 0.7 * cost(rounded)  # inputs so correlated let most of an error move on


def test_an_input_that_no_text_has_keeps_its_rounded_weight() -> None:
    matrix, moments = _matrix(5), np.eye(64)
    moments[7] = 0.0
    grid = Grid(8)
    moved, rounded = (
        compensated(matrix, grid, Order.of(moments)),
        nearest(matrix, grid, np.ones(64)),
    )
    assert (np.abs(moved.dense()[:, 7] - matrix[:, 7]) <= rounded.scale[:, 0] / 2 * 1.001).all()


def test_weights_beyond_the_largest_scale_are_clipped_and_stay_finite() -> None:
    for grid in GRIDS:
        found = nearest(np.full((2, 64), 3e7, np.float32), grid)
        assert (found.numbers == grid.high).all() and np.isfinite(found.dense()).all()
