"""A bias beside a mask that is arithmetic, as custom code writes ALiBi: no target may lose it.

Where lengths are fixed, OpenVINO multiplies (1 − m)·c + b out to (c + b) − c·m, and c swallows b.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter import options, registry
from goldfold.exporter.contract import Contract
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir.program import Program, infer_shapes
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.pipeline import run
from goldfold.exporter.passes.raise_mask import RaiseMask
from goldfold.golden.compare import reading
from goldfold.golden.gate import GATES

ALIBI = """
f (int64[batch,tokens] input_ids, int64[batch,tokens] attention_mask, float[90,16] table,
   float[2,24,24] bias) => (float[batch,16] sentence_embedding)
{
    x = Gather(table, input_ids)
    m = Cast <to: int = 1> (attention_mask)
    one = Constant <value_float: float = 1.0> ()
    lowest = Constant <value_float: float = LOWEST> ()
    wide = Constant <value_ints: ints = [1, 2]> ()
    MASK
    size = Shape <start: int = 1> (input_ids)
    square = Concat <axis: int = 0> (size, size)
    zeros = Constant <value_ints: ints = [0, 0]> ()
    slopes = Slice(bias, zeros, square, wide)
    biased = Add(slopes, mask)
    heads = Constant <value_ints: ints = [0, 0, 2, 8]> ()
    h = Reshape(x, heads)
    q = Transpose <perm: ints = [0, 2, 1, 3]> (h)
    k = Transpose <perm: ints = [0, 2, 3, 1]> (h)
    s = MatMul(q, k)
    e = Add(s, biased)
    p = Softmax <axis: int = -1> (e)
    a = MatMul(p, q)
    t = Transpose <perm: ints = [0, 2, 1, 3]> (a)
    flat = Constant <value_ints: ints = [0, 0, 16]> ()
    y = Reshape(t, flat)
    last = Constant <value_ints: ints = [2]> ()
    real = Unsqueeze(m, last)
    kept = Mul(y, real)
    rows = Constant <value_ints: ints = [1]> ()
    sums = ReduceSum <keepdims: int = 0> (kept, rows)
    count = ReduceSum <keepdims: int = 0> (real, rows)
    sentence_embedding = Div(sums, count)
}
"""
MASKS = {
    "plain": """
        m4 = Unsqueeze(m, wide)
        hidden = Sub(one, m4)
        mask = Mul(hidden, lowest)""",
    "integers": """
        m4 = Unsqueeze(attention_mask, wide)
        ione = Constant <value_int: int = 1> ()
        away = Sub(ione, m4)
        hidden = Cast <to: int = 1> (away)
        mask = Mul(hidden, lowest)""",
    "minus one": """
        less = Sub(m, one)
        hidden = Unsqueeze(less, wide)
        most = Mul(hidden, lowest)
        mask = Neg(most)""",
    "both ways": """
        m4 = Unsqueeze(m, wide)
        rows_ = Constant <value_ints: ints = [1, 3]> ()
        m5 = Unsqueeze(m, rows_)
        pair = Mul(m4, m5)
        hidden = Sub(one, pair)
        mask = Mul(hidden, lowest)""",
    "with axes": """
        m4 = Unsqueeze(m, wide)
        hidden = Sub(one, m4)
        low = Constant <value_floats: floats = [LOWEST]> ()
        mask = Mul(hidden, low)""",
    "a difference": """
        m4 = Unsqueeze(m, wide)
        kept_ = Mul(m4, lowest)
        mask = Sub(lowest, kept_)""",
}
TRAPS = ("plain", "both ways", "with axes", "a difference")
"""What OpenVINO multiplies out."""
LIMIT = GATES["fp32"].worst
RNG = np.random.default_rng(5)
WEIGHTS = {"table": RNG.normal(size=(90, 16)), "bias": -RNG.uniform(0, 3, size=(2, 24, 24))}
IDS = RNG.integers(1, 90, (3, 11))
MASK = (np.arange(11) < np.array([[11], [7], [1]])).astype(np.int64)


def program(mask: str, lowest: str = "-3.4028234663852886e+38") -> Program:
    text = ALIBI.replace("MASK", MASKS[mask]).replace("LOWEST", lowest)
    contract = Contract(
        model="alibi", dim=16, max_length=24, vocab_size=90, pad_id=0, normalized=False
    )
    model = docstring.graph(text, WEIGHTS)
    for node in model.graph:
        node.name = node.name or f"node_{node.outputs[0].name}"
    infer_shapes(model)
    return Program(model, contract)


def built(program: Program, target: str, folder: Path) -> np.ndarray:
    """What an artifact of fixed lengths gives, where the target has them."""
    own, found = program.copy(), registry.target(target)
    run(own, found.backend_passes("fp32", own.contract, {}))
    asked = options.own(found.Options, {"buckets": (8, 16, 24)})
    found.build(own, "fp32", folder, found.settle("fp32", asked, 24))
    call = found.reference_run if found.cannot_run(folder) else found.load
    return call(folder, program.contract, "fp32", 1)(IDS, MASK)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return max(reading(a, b).distance for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("mask", MASKS)
def test_openvino_keeps_the_bias(mask: str, tmp_path: Path) -> None:
    plain = program(mask)
    expected = interpret.runner(plain.copy())(IDS, MASK)
    if mask in TRAPS:  # else OpenVINO no longer multiplies masks out, and raise-mask may go
        assert off(built(plain, "openvino", tmp_path), expected) > 1e-3
    raised = plain.copy()
    assert len(RaiseMask().rewrite(raised.model).applied) == 1
    assert off(built(raised, "openvino", tmp_path), expected) <= LIMIT


def test_a_smaller_number_costs_digits_alone(tmp_path: Path) -> None:
    """Within the gate, and lost all the same."""
    plain = program("plain", "-10000.0")
    expected = interpret.runner(plain.copy())(IDS, MASK)
    lossy = off(built(plain, "openvino", tmp_path), expected)
    RaiseMask().rewrite(plain.model)
    assert off(built(plain, "openvino", tmp_path), expected) < lossy / 100


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "coreml"])
def test_so_does_every_other_target(target: str, tmp_path: Path) -> None:
    if (reason := registry.target(target).unavailable()) is not None:
        pytest.skip(reason)
    plain = program("plain")
    expected = interpret.runner(plain.copy())(IDS, MASK)
    RaiseMask().rewrite(plain.model)
    assert off(built(plain, target, tmp_path), expected) <= LIMIT


def test_a_choice_is_made_of_the_attention_mask_itself() -> None:
    graph = program("integers").model
    RaiseMask().rewrite(graph)
    (choice,) = [node for node in graph.graph if node.op_type == "Where"]
    (cast,) = [choice.inputs[0].producer()] if choice.inputs[0] is not None else [None]
    assert cast is not None and cast.op_type == "Cast"
    assert cast.attributes["to"].value == ir.DataType.BOOL.value
    assert "Sub" not in {node.op_type for node in graph.graph}
