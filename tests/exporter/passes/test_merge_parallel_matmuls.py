"""Merging on a whole encoder, in f32 and after half precision, before attention is spelt."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.merge_parallel_matmuls import MergeParallelMatmuls
from goldfold.golden.compare import reading
from goldfold.golden.gate import GATES
from tests.conftest import Exported
from tests.exporter.passes import harness


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "float32"), ("fp16", "float16")])
def test_an_encoder_keeps_its_embeddings(exported: Exported, precision: str, kind: str) -> None:
    program = exported.copy()
    pipeline.run(program, pipeline.half(precision, {}, typed=True))
    merged = program.copy()
    layers = sum(program.attention().values())
    parameters = program.parameters()
    (report,) = pipeline.run(merged, (MergeParallelMatmuls(),))
    assert report.applied == 2 * layers and not report.refused  # q/k/v, and gate and up
    assert merged.census()["Split"] == 2 * layers
    widths = 5 * layers  # the sizes of each Split, shared where they are alike
    assert merged.parameters() <= parameters + widths
    for node in merged.graph:
        if node.op_type == "Split":
            product = node.inputs[0].producer()  # type: ignore[union-attr]
            weight = constant(product.inputs[1])  # type: ignore[union-attr]
            assert weight is not None and weight.dtype == kind
    ids = np.random.default_rng(0).integers(4, 390, (3, 40))
    mask = np.ones_like(ids)
    one, other = (interpret.runner(p)(ids, mask) for p in (program, merged))
    for a, b in zip(one, other, strict=True):
        assert reading(a, b).distance <= GATES[precision].worst


def test_parts_are_told_apart_by_what_they_serve(exported: Exported) -> None:
    layers = sum(exported.program.attention().values())
    for part, columns in (("attention", 3), ("rest", 2)):
        program = exported.copy()
        (report,) = pipeline.run(program, (MergeParallelMatmuls(part=part),))
        assert report.applied == layers
        splits = [node for node in program.graph if node.op_type == "Split"]
        assert [len(node.outputs) for node in splits] == [columns] * layers, part


def test_a_product_of_two_texts_is_nobodys_sibling() -> None:
    text = """
    f (float[B,T,4] x, float[B,4,T] k, float[4,3] w, float[4,3] v)
        => (float[B,T,T] s, float[B,T,3] y, float[B,T,3] z)
    { s = MatMul(x, k) y = MatMul(x, w) z = MatMul(x, v) }
    """
    model = harness.build(text)
    assert len(MergeParallelMatmuls().rewrite(model).applied) == 1
    ops = sorted(node.op_type for node in model.graph)
    assert ops == ["MatMul", "MatMul", "Split"]
    harness.assert_legal(model)


def test_what_half_precision_left_apart_stays_apart() -> None:
    """The same value in two types is two values: nothing to refuse, and nothing to merge."""
    text = """
    f (float[B,T,4] x, float[4,3] w, float16[4,3] v) => (float[B,T,3] y, float16[B,T,3] z)
    { h = Cast <to: int = 10> (x) y = MatMul(x, w) z = MatMul(h, v) }
    """
    assert harness.assert_left_alone(MergeParallelMatmuls(), text).refused == []
    assert ir.DataType.FLOAT16 in {v.dtype for v in harness.build(text).graph.outputs}
