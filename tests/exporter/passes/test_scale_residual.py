"""scale-residual beyond its docstring: plans that meet a value twice, and order."""

from __future__ import annotations

import numpy as np
import pytest

from goldfold.exporter.passes.scale_residual import ScaleResidual
from tests.exporter.passes import harness

LOUD = (("h", 100000.0),)

SCALED_LATER = """
f (float[B,6] x, float[B,6] u, float[B,6] q, float[6] c, float[6] n) => (float[B,6] y)
{
    h = Add(x, u)
    z0 = Mul(h, c)
    g = Sigmoid(q)
    v = Mul(z0, g)
    z = Add(h, v)
    y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (z, n)
}
"""

EDGE_LATER = """
f (float[B,6] x, float[B,6] u, float[6] c, float[6,6] w, float[6] n) => (float[B,6] y, float[B,6] k)
{
    h = Add(x, u)
    v = Mul(h, c)
    p = MatMul(v, w)
    k = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (p, n)
    z = Add(h, v)
    y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (z, n)
}
"""

READ_BEFORE = """
f (float[B,6] x, float[6,6] w, float[6] n) => (float[B,6] y, float[B,6] k)
{
    v = Tanh(x)
    p = MatMul(v, w)
    s = Add(v, p)
    k = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (s, n)
    h = Add(k, v)
    y = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (h, n)
}
"""


@pytest.mark.parametrize("text", [SCALED_LATER, EDGE_LATER, READ_BEFORE])
def test_a_value_is_scaled_once_or_not_at_all(text: str) -> None:
    """Bits are the same whether the law applied or refused."""
    rng = np.random.default_rng(3)
    before, model = harness.build(text), harness.build(text)
    ScaleResidual(LOUD).rewrite(model)
    assert harness.faults(model) == []
    feeds = {v.name: rng.standard_normal((3, 6)).astype(np.float32) for v in before.graph.inputs}
    harness.assert_same_bits(before, model, feeds)


def test_an_infinite_peak_is_left_alone() -> None:
    """T5's position buckets hold log(0) where nobody looks."""
    model = harness.build(READ_BEFORE)
    assert ScaleResidual((("h", float("inf")),)).rewrite(model).applied == []
