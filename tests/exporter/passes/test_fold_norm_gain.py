"""Norms, readers and gains that the docstring's examples do not reach."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.fold_norm_gain import FoldNormGain
from tests.exporter.passes import drawing, harness

FOLD = FoldNormGain()

LAWFUL = {
    "a Gemm reads the norm": (
        """
        f (float[B,6] x, float[6] g, float[6,5] w, float[5] b) => (float[B,5] y)
        { n = RMSNormalization (x, g) y = Gemm(n, w, b) }
        """,
        ["RMSNormalization", "Gemm"],
    ),
    "a Gemm with a weight as torch stores it": (
        """
        f (float[B,6] x, float[6] g, float[6] c, float[6,6] w) => (float[B,6] y)
        { n = LayerNormalization (x, g, c) y = Gemm <transB: int = 1> (n, w) }
        """,
        ["LayerNormalization", "Gemm"],
    ),
    "LayerNorm's bias joins one that is there": (
        """
        f (float[B,T,6] x, float[6] g, float[6] c, float[6,5] w, float[5] b) => (float[B,T,5] y)
        { n = LayerNormalization (x, g, c) p = MatMul(n, w) y = Add(b, p) }
        """,
        ["LayerNormalization", "MatMul", "Add"],
    ),
    "LayerNorm's bias goes to every reader": (
        """
        f (float[B,T,6] x, float[6] g, float[6] c, float[6,5] w, float[6,4] v, float[4] b)
            => (float[B,T,5] y, float[B,T,4] z)
        { n = LayerNormalization (x, g, c) y = MatMul(n, w) p = MatMul(n, v) z = Add(p, b) }
        """,
        ["LayerNormalization", "MatMul", "Add", "MatMul", "Add"],
    ),
    "a product that has other uses than its bias": (
        """
        f (float[B,T,6] x, float[6] g, float[6] c, float[6,5] w, float[5] b)
            => (float[B,T,5] p, float[B,T,5] y)
        { n = LayerNormalization (x, g, c) p = MatMul(n, w) y = Add(p, b) }
        """,
        ["LayerNormalization", "MatMul", "Add", "Add"],
    ),
    "one weight for two products": (
        """
        f (float[B,6] x, float[6] g, float[6,5] w) => (float[B,5] y, float[B,5] z)
        { n = RMSNormalization (x, g) y = MatMul(n, w) z = MatMul(x, w) }
        """,
        ["RMSNormalization", "MatMul", "MatMul"],
    ),
    "one gain for two norms": (
        """
        f (float[B,6] x, float[6] g, float[6,6] w, float[6,5] v) => (float[B,5] y)
        {
            n = RMSNormalization (x, g)
            h = MatMul(n, w)
            m = RMSNormalization (h, g)
            y = MatMul(m, v)
        }
        """,
        ["RMSNormalization", "MatMul", "RMSNormalization", "MatMul"],
    ),
}


@pytest.mark.parametrize(("text", "ops"), LAWFUL.values(), ids=LAWFUL)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_gains_move_into_their_readers(text: str, ops: list[str], data: st.DataObject) -> None:
    model = harness.build(text)
    assert FOLD.rewrite(model).applied
    assert [node.op_type for node in model.graph] == ops
    harness.assert_legal(model)
    harness.assert_holds(FOLD, text, *data.draw(drawing.draws(text)))


SIMPLE = """
f (float[B,6] x, float[6] g, float[6] c, float[6,5] w) => (float[B,5] y)
{ n = LayerNormalization (x, g, c) y = MatMul(n, w) }
"""
GAINS = {
    "zeros in it": [0.0, 1.0, -0.0, 2.0, 0.0, 3.0],
    "negative": [-1.0, -2.0, 0.5, -0.25, 1.0, -3.0],
    "all zero": [0.0] * 6,
    "ones, and so the bias alone is moved": [1.0] * 6,
    "far apart": [1e-6, 1e4, 1.0, -1e-3, 1e2, 7.0],
}


@pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)
def test_gains_of_every_kind(gain: list[float]) -> None:
    feeds = {"x": drawing.numbers((3, 6), "heavy tails", 4)}
    harness.assert_holds(FOLD, SIMPLE, _weights(gain), feeds)


def test_a_text_that_is_not_a_number_stays_so_alone() -> None:
    # 0 · NaN is NaN, so folding a gain of zero into the weight neither hides a NaN nor spreads one.
    x = np.random.default_rng(5).standard_normal((3, 6)).astype(np.float32)
    x[1, 2] = np.nan
    weights = _weights(GAINS["zeros in it"])
    before, after = (harness.build(SIMPLE, weights) for _ in range(2))
    assert FOLD.rewrite(after).applied
    for model in (before, after):
        (y,) = harness.runtime(model, {"x": x})
        assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


def test_a_gain_of_ones_and_no_bias_is_nothing_to_fold() -> None:
    weights = {**_weights([1.0] * 6), "c": np.full(6, -0.0, np.float32)}
    model = harness.build(SIMPLE, weights)
    log = FOLD.rewrite(model)
    assert log.applied == [] and log.refused == []


def test_a_tied_weight_is_scaled_for_the_norms_reader_only() -> None:
    text, _ = LAWFUL["one weight for two products"]
    weights = {
        "g": np.array([2, 3, 5, 7, 11, 13], np.float32),
        "w": np.arange(30, dtype=np.float32).reshape(6, 5),
    }
    model = harness.build(text, weights)
    FOLD.rewrite(model)
    y, z = (value.producer() for value in model.graph.outputs)
    assert y is not None and z is not None
    np.testing.assert_array_equal(constant(y.inputs[1]), weights["g"][:, None] * weights["w"])
    assert z.inputs[1].name == "w"
    np.testing.assert_array_equal(constant(z.inputs[1]), weights["w"])


def test_two_norms_share_their_ones() -> None:
    text, _ = LAWFUL["one gain for two norms"]
    model = harness.build(text)
    assert len(FOLD.rewrite(model).applied) == 2
    gains = {node.inputs[1] for node in model.graph if node.op_type == "RMSNormalization"}
    assert len(gains) == 1


LEFT_ALONE = {
    "it does not normalise the last axis alone": """
        f (float[B,3,6] x, float[3,6] g, float[6,5] w) => (float[B,3,5] y)
        { n = RMSNormalization <axis: int = -2> (x, g) y = MatMul(n, w) }
    """,
    "its gain or its bias is not one number a channel; it is one for all": """
        f (float[B,6] x, float[1] g, float[1] c, float[6,5] w) => (float[B,5] y)
        { n = LayerNormalization (x, g, c) y = MatMul(n, w) }
    """,
    "its gain or its bias is not one number a channel; its bias is one for all": """
        f (float[B,6] x, float[6] g, float[1] c, float[6,5] w) => (float[B,5] y)
        { n = LayerNormalization (x, g, c) y = MatMul(n, w) }
    """,
    "MatMul (MatMul) also reads the norm; as its right factor": """
        f (float[B,6,6] x, float[6] g, float[4,6] w) => (float[B,4,6] y)
        { n = RMSNormalization (x, g) y = MatMul(w, n) }
    """,
    "MatMul (MatMul) also reads the norm; twice": """
        f (float[B,6,6] x, float[6] g) => (float[B,6,6] y)
        { n = RMSNormalization (x, g) y = MatMul(n, n) }
    """,
    "its mean or variance is read as well": """
        f (float[B,6] x, float[6] g, float[6,5] w) => (float[B,5] y, float[B,1] z)
        { n, m = LayerNormalization (x, g) y = MatMul(n, w) z = Neg(m) }
    """,
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_refusals_are_named(reason: str) -> None:
    (refusal,) = harness.assert_left_alone(FOLD, LEFT_ALONE[reason]).refused
    assert refusal.reason == reason.split("; ")[0]


def test_a_gain_that_is_data_is_not_this_law() -> None:
    text = """
    f (float[B,6] x, float[K] g, float[6,5] w) => (float[B,5] y)
    { n = RMSNormalization (x, g) y = MatMul(n, w) }
    """
    assert harness.assert_left_alone(FOLD, text).refused == []


def test_a_refusal_names_the_reader_by_its_module() -> None:
    text = """
    f (float[B,6] x, float[6] g, float[6,6] w) => (float[B,6] y)
    { n = RMSNormalization (x, g) h = MatMul(n, w) y = Add(n, h) }
    """
    model = harness.build(text)
    for node in model.graph:
        node.metadata_props["goldfold.module"] = f"layers.3.{node.op_type.lower()}"
    (refusal,) = FOLD.rewrite(model).refused
    assert str(refusal) == (
        "fold-norm-gain: refused at layers.3.rmsnormalization: "
        "layers.3.add (Add) also reads the norm"
    )


def _weights(gain: list[float]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        "g": np.array(gain, np.float32),
        "c": rng.standard_normal(6).astype(np.float32),
        "w": rng.standard_normal((6, 5)).astype(np.float32),
    }
