"""Chains and spellings of dense layers that the docstring's examples do not reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.fuse_identity_dense import FuseIdentityDense
from tests.exporter.passes import drawing, harness

FUSE = FuseIdentityDense()

# text, and what stays: (links fused, final ops)
CHAINS = {
    "three Gemms": (
        """
        f (float[B,6] x, float[6,16] u, float[16] a, float[16,9] v, float[9] b, float[9,4] w,
           float[4] c) => (float[B,4] y)
        {
            g = Gemm(x, u, a)
            h = Gemm(g, v, b)
            y = Gemm(h, w, c)
        }
        """,
        2,
        ["Gemm"],
    ),
    "four MatMuls, biases here and there": (
        """
        f (float[B,T,6] x, float[6,16] u, float[16] a, float[16,9] v, float[9,12] w, float[12] b,
           float[12,4] z) => (float[B,T,4] y)
        {
            p = MatMul(x, u)
            g = Add(p, a)
            h = MatMul(g, v)
            q = MatMul(h, w)
            i = Add(b, q)
            y = MatMul(i, z)
        }
        """,
        3,
        ["MatMul", "Add"],
    ),
    "no bias anywhere": (
        """
        f (float[B,T,6] x, float[6,16] u, float[16,6] v) => (float[B,T,6] y)
        { h = MatMul(x, u) y = MatMul(h, v) }
        """,
        1,
        ["MatMul"],
    ),
    "a bias at the end only": (
        """
        f (float[B,T,6] x, float[6,16] u, float[16,6] v, float[6] b) => (float[B,T,6] y)
        { h = MatMul(x, u) p = MatMul(h, v) y = Add(p, b) }
        """,
        1,
        ["MatMul", "Add"],
    ),
    "weights as torch stores them": (
        """
        f (float[B,6] x, float[16,6] u, float[16] a, float[5,16] v) => (float[B,5] y)
        { h = Gemm <transB: int = 1> (x, u, a) y = Gemm <transB: int = 1> (h, v) }
        """,
        1,
        ["Gemm"],
    ),
    "a square weight stored transposed": (
        """
        f (float[B,6] x, float[6,6] u, float[6,6] v) => (float[B,6] y)
        { h = Gemm <transB: int = 1> (x, u) y = Gemm(h, v) }
        """,
        1,
        ["Gemm"],
    ),
    "one bias for all columns": (
        """
        f (float[B,6] x, float[6,16] u, float[1] a, float[16,5] v, float[1,5] b) => (float[B,5] y)
        { h = Gemm(x, u, a) y = Gemm(h, v, b) }
        """,
        1,
        ["Gemm"],
    ),
    "MatMul and Add into Gemm": (
        """
        f (float[B,6] x, float[6,16] u, float[16] a, float[16,5] v) => (float[B,5] y)
        { p = MatMul(x, u) h = Add(p, a) y = Gemm(h, v) }
        """,
        1,
        ["Gemm"],
    ),
    "the same weight twice": (
        """
        f (float[B,6] x, float[6,6] u) => (float[B,6] y)
        { h = MatMul(x, u) y = MatMul(h, u) }
        """,
        1,
        ["MatMul"],
    ),
}


@pytest.mark.parametrize(("text", "links", "ops"), CHAINS.values(), ids=CHAINS)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_chains_become_one(text: str, links: int, ops: list[str], data: st.DataObject) -> None:
    model = harness.build(text)
    assert len(FUSE.rewrite(model).applied) == links
    assert [node.op_type for node in model.graph] == ops
    harness.assert_legal(model)
    harness.assert_holds(FUSE, text, *data.draw(drawing.draws(text)))


LEFT_ALONE = {
    "the middle is an output": """
        f (float[B,6] x, float[6,16] u, float[16,6] v) => (float[B,6] y, float[B,16] h)
        { h = MatMul(x, u) y = MatMul(h, v) }
    """,
    "the sum between the two is an output": """
        f (float[B,6] x, float[6,16] u, float[16] a, float[16,6] v) => (float[B,6] y, float[B,16] h)
        { p = MatMul(x, u) h = Add(p, a) y = MatMul(h, v) }
    """,
    "two dense layers read the middle": """
        f (float[B,6] x, float[6,16] u, float[16,6] v, float[16,6] w)
            => (float[B,6] y, float[B,6] z)
        { h = MatMul(x, u) y = MatMul(h, v) z = MatMul(h, w) }
    """,
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_a_middle_with_another_reader_is_named(text: str) -> None:
    assert harness.assert_left_alone(FUSE, text).refused


NOT_MINE = {
    "an activation between": """
        f (float[B,6] x, float[6,16] u, float[16,6] v) => (float[B,6] y)
        { h = MatMul(x, u) a = Tanh(h) y = MatMul(a, v) }
    """,
    "a weight that is data": """
        f (float[B,6] x, float[6,K] u, float[16,6] v) => (float[B,6] y)
        { h = MatMul(x, u) y = MatMul(h, v) }
    """,
    "a bare product that is an output": """
        f (float[B,6] x, float[6,16] u, float[16] a, float[16,6] v)
            => (float[B,6] y, float[B,16] p)
        { p = MatMul(x, u) h = Add(p, a) y = MatMul(h, v) }
    """,
    "a bias for each row": """
        f (float[B,6] x, float[6,5] u, float[5,1] a, float[5,3] v) => (float[B,3] y)
        { h = Gemm(x, u, a) y = Gemm(h, v) }
    """,
    "a scaled Gemm": """
        f (float[B,6] x, float[6,16] u, float[16,6] v) => (float[B,6] y)
        { h = Gemm <alpha: float = 2.0> (x, u) y = Gemm(h, v) }
    """,
    "a scaled bias": """
        f (float[B,6] x, float[6,16] u, float[16] a, float[16,6] v) => (float[B,6] y)
        { h = Gemm <beta: float = 0.5> (x, u, a) y = Gemm(h, v) }
    """,
    "x stored transposed": """
        f (float[6,B] x, float[6,16] u, float[16,6] v) => (float[B,6] y)
        { h = Gemm <transA: int = 1> (x, u) y = Gemm(h, v) }
    """,
    "a weight for each text": """
        f (float[B,4,6] x, float[2,6,16] u, float[16,6] v) => (float[B,4,6] y)
        { h = MatMul(x, u) y = MatMul(h, v) }
    """,
}


@pytest.mark.parametrize("text", NOT_MINE.values(), ids=NOT_MINE)
def test_what_is_no_chain_is_left_alone_in_silence(text: str) -> None:
    assert harness.assert_left_alone(FUSE, text).refused == []


def test_the_product_is_rounded_once() -> None:
    text, _, _ = CHAINS["no bias anywhere"]
    rng = np.random.default_rng(3)
    u, v = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 16), (16, 6)))
    model = harness.build(text, {"u": u, "v": v})
    FUSE.rewrite(model)
    (product,) = model.graph
    stored = constant(product.inputs[1])
    assert stored is not None and stored.dtype == np.float32
    np.testing.assert_array_equal(
        stored, (u.astype(np.float64) @ v.astype(np.float64)).astype(np.float32)
    )


def test_layers_of_one_module_keep_their_names_apart() -> None:
    # No node has a name or a module here, so all are called after their op.
    text = """
    f (float[B,6] x, float[6,16] u, float[16,6] v, float[6] b) => (float[B,6] y, float[B,6] z)
    {
        g = MatMul(x, u)
        p = MatMul(g, v)
        y = Add(p, b)
        h = MatMul(x, u)
        q = MatMul(h, v)
        z = Add(q, b)
    }
    """
    model = harness.build(text)
    assert len(FUSE.rewrite(model).applied) == 2
    harness.assert_legal(model)
