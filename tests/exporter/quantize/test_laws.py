"""What the integer laws promise: within half a step, and the same numbers in every spelling."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.contract import Contract
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.quantize_activations import QuantizeActivations
from goldfold.exporter.passes.quantize_weights import QuantizeWeights
from goldfold.exporter.passes.rewriting.grid import Grid, nearest
from goldfold.exporter.search.dequantize import dense
from tests.exporter.passes import drawing, harness
from tests.exporter.quantize import rounded

_CONTRACT = Contract(
    model="example", dim=1, max_length=1, vocab_size=1, pad_id=0, normalized=False
)  # fmt: skip
EXAMPLES = [
    pytest.param(dataclasses.replace(this, **one.options), grid, one.before, id=name + one.title)
    for this, grid, name in (
        (QuantizeWeights(), Grid(8), "8 bits, "),
        (QuantizeWeights(), Grid(8, 2), "blocks of 2, "),
        (QuantizeActivations(), Grid(8), "activations, "),
    )
    for one in docstring.read(this).examples
]


@pytest.mark.parametrize(("this", "grid", "text"), EXAMPLES)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_integers_are_within_half_a_step(this, grid: Grid, text: str, data: st.DataObject) -> None:
    """Σ |x_j| s/2 over inputs for weights, Σ s/2 |W_j| for activations; in a table, s/2."""
    drawn, feeds = data.draw(drawing.draws(text))
    weights = {
        name: drawing.numbers(array.shape, "normal", 1) if array.dtype.kind == "f" else array
        for name, array in drawn.items()
    }
    feeds = {
        name: drawing.numbers(array.shape, "normal", 2) if array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }
    before, model = harness.build(text, weights), harness.build(text, weights)
    exact = harness.runtime(before, feeds)
    law = rounded.law(model, grid) if grid.block else this
    assert law.rewrite(model).applied
    got = harness.runtime(model, feeds)
    for one, two in zip(exact, got, strict=True):
        bound = _bound(this, grid, weights, feeds, one)
        assert np.abs(one - two).max() <= bound and (one != two).any()


def _bound(this, grid: Grid, weights, feeds, like: np.ndarray) -> float:
    noise = 1e-3 * float(np.abs(like).max()) + 1e-6  # f32, and the scale's 11 bits
    if isinstance(this, QuantizeActivations):
        step = dict(this.scales)["x"]
        beyond = np.maximum(np.abs(feeds["x"]) - 127 * step, step / 2).max()
        reach = max(
            float(np.abs(weights[w].astype(float)).sum(axis=0).max() * np.abs(weights[s]).max())
            for w, s in (("w", "s"), ("v", "r"))
        )
        return beyond * reach + noise
    name = "table" if "table" in weights else "w"
    matrix = weights[name] if name == "table" else weights[name].T
    step = nearest(matrix, grid).scale.max()
    reach = 1.0 if name == "table" else float(np.abs(feeds["x"]).sum(axis=1).max())
    return step / 2 * reach + noise


def test_columns_of_a_table_ride_on_the_factor_that_follows_it() -> None:
    text = """f (int64[B,T] ids, float[50,6] table, float c) => (float[B,T,6] y)
    {
        x = Gather(table, ids)
        y = Mul(x, c)
    }"""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((50, 6)).astype(np.float32)
    table[:, 2] *= 40
    weights = {"table": table, "c": np.float32(3.0)}
    model = harness.build(text, weights)
    stored = next(node.inputs[0] for node in model.graph if node.op_type == "Gather")
    assert stored is not None and stored.name
    columns = np.sqrt((table**2).mean(axis=0))
    found = nearest(table, Grid(8), columns=columns)
    assert QuantizeWeights(plan={stored.name: found}).rewrite(model).applied
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "Gather", "Mul"]
    feeds = {"ids": np.arange(50, dtype=np.int64).reshape(5, 10)}
    got = harness.runtime(model, feeds)[0].reshape(50, 6)
    error = np.abs(got - 3 * table) / columns
    plain = np.abs(nearest(table, Grid(8)).dense() * 3 - 3 * table) / columns
    assert error.mean() < 0.5 * plain.mean()


def test_dense_is_what_the_integers_mean() -> None:
    text = docstring.read(QuantizeWeights).examples[0].before
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((8, 6)).astype(np.float32)}
    model = harness.build(text, weights)
    assert rounded.law(model, Grid(8, 4)).rewrite(model).applied
    dequantize = model.graph[0]
    assert dequantize.attributes["axis"].as_int() == 0
    assert dequantize.attributes["block_size"].as_int() == 4
    kinds = [(value.dtype, value.shape) for value in dequantize.inputs if value is not None]
    assert kinds == [(ir.DataType.INT8, [8, 6]), (ir.DataType.FLOAT, [2, 6])]
    feeds = {"x": rng.standard_normal((3, 8)).astype(np.float32)}
    opened = dense(Program(model, _CONTRACT)).model
    assert [node.op_type for node in opened.graph] == ["MatMul"]
    a, b = harness.runtime(model, feeds)[0], harness.runtime(opened, feeds)[0]
    assert np.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_row_that_is_no_whole_number_of_blocks_is_refused() -> None:
    model = harness.build(docstring.read(QuantizeWeights).examples[0].before)
    log = rounded.law(model, Grid(8, 3)).rewrite(model)
    assert not log.applied
    (refusal,) = log.refused
    assert "8 inputs are no whole number of blocks of 3" in refusal.reason
