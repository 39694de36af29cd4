"""Several rotary nodes in one graph, and tables and inputs that are not this pass's to mend."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.passes.legalize_rotary import LegalizeRotary
from tests.exporter.passes import drawing, harness

ROTARY = LegalizeRotary()


def two(tokens: str) -> str:
    return f"""
    f (float[B,4,{tokens},8] q, float[B,1,{tokens},8] k, float[1,{tokens},4] c,
       float[1,{tokens},4] s) => (float[B,4,{tokens},8] y, float[B,1,{tokens},8] z)
    {{
        y = RotaryEmbedding <num_heads: int = 4> (q, c, s)
        z = RotaryEmbedding <num_heads: int = 1> (k, c, s)
    }}
    """


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_two_rotary_nodes_turn_as_before(data: st.DataObject) -> None:
    harness.assert_holds(ROTARY, two("T"), *data.draw(drawing.draws(two("T"))))


def test_rotary_nodes_share_tables_and_positions() -> None:
    model = harness.build(two("T"))
    assert len(ROTARY.rewrite(model).applied) == 2
    harness.assert_legal(model)
    y, z = (value.producer() for value in model.graph.outputs)
    assert list(y.inputs[1:]) == list(z.inputs[1:])
    ops = [node.op_type for node in model.graph]
    assert ops.count("Squeeze") == 3 and ops.count("Range") == 1  # two tables and a count


def test_rotary_nodes_of_unnamed_sizes_share_only_tables() -> None:
    model = harness.build(two("?"))
    assert len(ROTARY.rewrite(model).applied) == 2
    harness.assert_legal(model)
    y, z = (value.producer() for value in model.graph.outputs)
    assert list(y.inputs[1:3]) == list(z.inputs[1:3]) and y.inputs[3] is not z.inputs[3]


def test_a_hidden_state_of_rank_three_is_named() -> None:
    text = """
    f (float[B,T,16] x, float[1,T,4] c, float[1,T,4] s) => (float[B,T,16] y)
    { y = RotaryEmbedding <num_heads: int = 2> (x, c, s) }
    """
    (refusal,) = harness.assert_left_alone(ROTARY, text).refused
    assert "[B,T,16]" in refusal.reason


def test_tables_that_are_indexed_are_left_alone_in_silence() -> None:
    text = """
    f (float[B,2,T,8] x, float[U,4] c, float[U,4] s, int64[B,T] ids) => (float[B,2,T,8] y)
    { y = RotaryEmbedding <num_heads: int = 2> (x, c, s, ids) }
    """
    assert harness.assert_left_alone(ROTARY, text).refused == []
