"""Shapes that the docstring's example does not reach."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.static_heads import StaticHeads
from tests.exporter.passes import drawing, harness

STATIC = StaticHeads()

BATCH_AND_TOKENS = """
    batch = Shape <start: int = 0, end: int = 1> (x)
    tokens = Shape <start: int = 1, end: int = 2> (x)
"""
LAWFUL = {
    "heads joined again": (
        f"""
        f (float[B,T,2,3] x) => (float[B,T,6] y)
        {{
            {BATCH_AND_TOKENS}
            width = Constant <value_ints: ints = [6]> ()
            shape = Concat <axis: int = 0> (batch, tokens, width)
            y = Reshape <allowzero: int = 1> (x, shape)
        }}
        """,
        [0, 0, 6],
    ),
    "one size is left over": (
        f"""
        f (float[B,T,6] x) => (float[N,6] y)
        {{
            {BATCH_AND_TOKENS}
            rows = Mul(batch, tokens)
            width = Constant <value_ints: ints = [6]> ()
            shape = Concat <axis: int = 0> (rows, width)
            y = Reshape(x, shape)
        }}
        """,
        [-1, 6],
    ),
    "a size that moved is not copied": (
        f"""
        f (float[B,T,6] x) => (float[B,6,T] y)
        {{
            {BATCH_AND_TOKENS}
            width = Constant <value_ints: ints = [6]> ()
            shape = Concat <axis: int = 0> (batch, width, tokens)
            y = Reshape(x, shape)
        }}
        """,
        [0, 6, -1],
    ),
    "a constant shape that sets allowzero": (
        """
        f (float[B,6] x) => (float[B,2,3] y)
        {
            shape = Constant <value_ints: ints = [-1, 2, 3]> ()
            y = Reshape <allowzero: int = 1> (x, shape)
        }
        """,
        [0, 2, 3],
    ),
}


@pytest.mark.parametrize(("text", "shape"), LAWFUL.values(), ids=LAWFUL)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_shapes_are_said(text: str, shape: list[int], data: st.DataObject) -> None:
    model = harness.build(text)
    assert STATIC.rewrite(model).applied
    harness.assert_legal(model)
    (node,) = model.graph
    found = constant(node.inputs[1])
    assert found is not None and found.tolist() == shape
    harness.assert_holds(STATIC, text, *data.draw(drawing.draws(text)))


def test_two_reshapes_share_their_shape() -> None:
    text = f"""
    f (float[B,T,6] x) => (float[B,T,2,3] y, float[B,T,2,3] z)
    {{
        {BATCH_AND_TOKENS}
        heads = Constant <value_ints: ints = [2, 3]> ()
        shape = Concat <axis: int = 0> (batch, tokens, heads)
        y = Reshape(x, shape)
        n = Neg(x)
        z = Reshape(n, shape)
    }}
    """
    model = harness.build(text)
    assert len(STATIC.rewrite(model).applied) == 2
    harness.assert_legal(model)
    assert len(model.graph.initializers) == 1


def test_an_empty_result_is_named() -> None:
    text = """
    f (float[B,0] x) => (float[0,3] y)
    {
        shape = Constant <value_ints: ints = [0, 3]> ()
        y = Reshape <allowzero: int = 1> (x, shape)
    }
    """
    (refusal,) = harness.assert_left_alone(STATIC, text).refused
    assert refusal.reason == "the result is empty"


def test_a_constant_shape_is_left_alone_in_silence() -> None:
    text = """
    f (float[B,T,6] x) => (float[B,T,2,3] y)
    {
        shape = Constant <value_ints: ints = [0, 0, 2, 3]> ()
        y = Reshape(x, shape)
    }
    """
    assert harness.assert_left_alone(STATIC, text).refused == []
