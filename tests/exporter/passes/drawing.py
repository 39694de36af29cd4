"""Data and weights for the examples of a law, drawn by hypothesis: heavy tails, spikes, zero rows,
tiny numbers, signed zeros."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from hypothesis import strategies as st

from goldfold.exporter.passes import docstring

PROFILES = ("normal", "heavy tails", "spike", "zero row", "tiny", "signed zeros")
"""Kinds of drawn data. Magnitudes stay within some 1e-9 … 1e5, or are 0: no square or product of a
few of them then leaves the normal range of f64, nor of f32 in the ops that EXACT passes touch."""

_WEIGHT = re.compile(r"\b(float|double|float16|bfloat16|u?int[84])(?:\[([\d,]*)\])?\s+(\w+)")
_LEAST = {"int8": -128, "uint8": 0, "int4": -8, "uint4": 0}
"""Where the integers of quantized weights begin."""
_RANGE = re.compile(r"# (\w+): (-?\d+) to (-?\d+)")
"""A remark in a graph's text on the integers of one weight, if they fill less than their type."""


def numbers(shape: tuple[int, ...], profile: str, seed: int) -> np.ndarray:
    """f32 data of one of the PROFILES."""
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(shape)
    match profile:
        case "heavy tails":
            array = np.clip(rng.standard_t(1.5, shape), -1e4, 1e4)
        case "spike" if array.size:
            array.flat[rng.integers(array.size)] *= 1e4
        case "zero row" if array.size and array.ndim:
            array[rng.integers(shape[0])] = 0.0
        case "tiny":
            array *= 1e-6
        case "signed zeros":
            array = np.where(rng.random(shape) < 0.3, -0.0, array)
    return array.astype(np.float32)


def weight(
    kind: str,
    shape: tuple[int, ...],
    profile: str,
    seed: int,
    ends: tuple[int, int] | None = None,
) -> np.ndarray:
    """Drawn data for a weight of this type; where it is quantized, whole numbers of its whole
    range, or between two `ends`."""
    if kind not in _LEAST:
        return numbers(shape, profile, seed)
    least, bits = _LEAST[kind], int(kind.removeprefix("u").removeprefix("int"))
    low, high = ends or (least, least + 2**bits - 1)
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True)


def _draw(value: ir.Value, sizes: Mapping[str, int], profile: str, seed: int) -> np.ndarray:
    assert value.shape is not None and value.dtype is not None
    shape = tuple(d if isinstance(d, int) else sizes[str(d.value)] for d in value.shape)
    if value.dtype.is_floating_point():
        return numbers(shape, profile, seed).astype(value.dtype.numpy())
    rng = np.random.default_rng(seed)
    if value.dtype == ir.DataType.BOOL:
        # Mostly true, and now and then a whole row of nothing; but what an example calls `mask`
        # keeps the contract, by which every text has a token.
        drawn = rng.random(shape) < 0.7
        drawn[rng.random(len(drawn)) < 0.2] = False
        if value.name == "mask":
            drawn[:, 0] = True
        return drawn
    return rng.integers(0, 5, shape).astype(value.dtype.numpy())


@st.composite
def draws(draw: st.DrawFn, text: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, data inputs) for an example, by name."""
    kind = st.tuples(st.sampled_from(PROFILES), st.integers(0, 2**32 - 1))
    ends = {name: (int(low), int(high)) for name, low, high in _RANGE.findall(text)}
    weights = {
        name: weight(
            type_name, tuple(int(d) for d in dims.split(",") if d), *draw(kind), ends.get(name)
        )
        for type_name, dims, name in _WEIGHT.findall(text.split("=>")[0])
    }
    model = docstring.graph(text, weights)
    symbols = {
        str(d.value) for v in model.graph.inputs for d in v.shape or () if not isinstance(d, int)
    }
    sizes = {symbol: draw(st.integers(1, 5), label=symbol) for symbol in sorted(symbols)}
    data = {v.name: _draw(v, sizes, *draw(kind)) for v in model.graph.inputs}
    return weights, data
