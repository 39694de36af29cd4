"""The emulator makes of integer weights what DequantizeLinear makes, rounded to its type."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from goldfold.exporter.contract import Contract
from goldfold.exporter.evaluate.emulate import emulated
from goldfold.exporter.ir.program import Program, constant, infer_shapes
from goldfold.exporter.passes import docstring

CASES = {
    "a channel": ("int8[6,8] w, {kind}[8] s", "<axis: int = 1>"),
    "a row": ("int8[6,8] w, {kind}[6] s", "<axis: int = 0>"),
    "all": ("int8[6,8] w, {kind} s", ""),
    "blocks of inputs": ("int4[6,8] w, {kind}[2,8] s", "<axis: int = 0, block_size: int = 3>"),
    "blocks of a row": ("int8[6,8] w, {kind}[6,2] s", "<axis: int = 1, block_size: int = 4>"),
}


@pytest.mark.parametrize("kind", ["float16", "float"])
@pytest.mark.parametrize("case", CASES)
def test_integers_times_scales_rounded_once(case: str, kind: str) -> None:
    inputs, attributes = CASES[case]
    text = f"""
    f ({kind}[B,6] x, {inputs.format(kind=kind)}) => ({kind}[B,8] y)
    {{
        d = DequantizeLinear {attributes} (w, s)
        y = MatMul(x, d)
    }}
    """
    rng = np.random.default_rng(5)
    low = -8 if "int4" in inputs else -127
    shape = {"a channel": 8, "a row": 6, "all": (), "blocks of inputs": (2, 8)}.get(case, (6, 2))
    scale = np.asarray(rng.uniform(0.001, 0.02, shape)).astype(np.float16)
    weights = {"w": rng.integers(low, 8 if low == -8 else 128, (6, 8)), "s": scale}
    model = docstring.graph(text, weights)
    infer_shapes(model)
    contract = Contract(
        model="example", dim=1, max_length=8, vocab_size=8, pad_id=0, normalized=False
    )
    graph = emulated(Program(model, contract)).graph
    (product,) = [node for node in graph if node.op_type == "MatMul"]
    found = constant(product.inputs[1])
    assert found is not None and found.dtype == np.float32
    x = np.eye(6, dtype=np.float16 if kind == "float16" else np.float32)
    (expected,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))
