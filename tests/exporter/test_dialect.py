"""BandAttention's definition and its expansion, against attention written out token by token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.dialect import Band
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from tests.exporter.passes import drawing, harness

EXPAND = ExpandBandAttention()


def attention(feeds: harness.Arrays, band: Band) -> np.ndarray:
    """f64[B,H,S,D]: for each token the softmax over the tokens it sees, and their mean so weighted.

    A token that sees nobody attends to everybody, as all its scores are lowered alike.
    """
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    padding, bias = feeds["padding"], feeds.get("bias")
    texts, heads, tokens, width = q.shape
    if bias is not None:
        bias = np.broadcast_to(bias.astype(np.float64), (texts, heads, tokens, tokens))
    y = np.zeros((texts, heads, tokens, width))
    for text, head, i in np.ndindex(texts, heads, tokens):
        group = head // (heads // k.shape[1])
        seen = [j for j in range(tokens) if padding[text, j] and _sees(i, j, band)]
        scores = []
        for j in seen or range(tokens):
            score = math.fsum(q[text, head, i] * band.scale * k[text, group, j])
            if band.softcap:
                score = band.softcap * math.tanh(score / band.softcap)
            if bias is not None:
                score += bias[text, head, i, j]
            scores.append(score)
        weights = np.exp(np.array(scores) - max(scores))
        weights /= math.fsum(weights)
        for weight, j in zip(weights, seen or range(tokens), strict=True):
            y[text, head, i] += weight * v[text, group, j]
    return y


def _sees(i: int, j: int, band: Band) -> bool:
    if band.causal and j > i:
        return False
    return not band.window or abs(i - j) < band.window


def text_of(heads: int, groups: int, width: int, band: Band | None, bias: str = "") -> str:
    """One BandAttention over symbolic texts and tokens; without a band, no attribute is given. A
    bias is of these texts and heads, as "B,1"."""
    given, added, overload = "", "", ""
    if bias:
        given, added, overload = f", float[{bias},T,T] bias", ", bias", ":biased"
    attributes = ""
    if band is not None:
        attributes = (
            f"<scale: float = {band.scale}, window: int = {band.window}, "
            f"causal: int = {int(band.causal)}, softcap: float = {band.softcap}>"
        )
    return f"""
    f (float[B,{heads},T,{width}] q, float[B,{groups},T,{width}] k, float[B,{groups},T,{width}] v,
       bool[B,T] padding{given}) => (float[B,{heads},T,{width}] y)
    {{ y = goldfold.BandAttention{overload} {attributes} (q, k, v, padding{added}) }}
    """


def feeds_of(heads: int, groups: int, tokens: int, width: int) -> dict[str, np.ndarray]:
    """Two texts; the second has two tokens of padding, of which one is in its middle."""
    sizes = {"q": heads, "k": groups, "v": groups}
    feeds = {
        name: drawing.numbers((2, count, tokens, width), "normal", seed)
        for seed, (name, count) in enumerate(sizes.items())
    }
    padding = np.ones((2, tokens), bool)
    padding[1, [1, -1]] = False
    return {**feeds, "padding": padding}


@dataclass(frozen=True)
class Case:
    text: str
    band: Band
    feeds: dict[str, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    groups = draw(st.integers(1, 2), label="G")
    heads = groups * draw(st.integers(1, 3), label="H/G")
    texts, tokens = draw(st.integers(1, 2), label="B"), draw(st.integers(1, 6), label="S")
    width = draw(st.integers(1, 4), label="D")
    band = Band(
        scale=draw(st.sampled_from([1.0, 0.25, 0.5])),
        window=draw(st.integers(0, tokens + 2)),
        causal=draw(st.booleans()),
        softcap=draw(st.sampled_from([0.0, 0.5, 5.0])),
    )
    row = st.one_of(
        st.lists(st.booleans(), min_size=tokens, max_size=tokens),
        # Padding on the right, of no token to all of them.
        st.integers(0, tokens).map(lambda real: [j < real for j in range(tokens)]),
    )
    seed = draw(st.integers(0, 2**32 - 1))
    profile = draw(st.sampled_from(("normal", "zero row", "tiny", "signed zeros")))
    feeds = {
        "q": drawing.numbers((texts, heads, tokens, width), profile, seed),
        "k": drawing.numbers((texts, groups, tokens, width), "normal", seed + 1),
        "v": drawing.numbers((texts, groups, tokens, width), "normal", seed + 2),
        "padding": np.array([draw(row) for _ in range(texts)]),
    }
    bias = draw(st.sampled_from(["", "1,1", f"1,{heads}", "B,1", f"B,{heads}"]), label="bias")
    if bias:
        sizes = [texts if size == "B" else int(size) for size in bias.split(",")]
        feeds["bias"] = drawing.numbers((*sizes, tokens, tokens), "normal", seed + 3)
    return Case(text_of(heads, groups, width, band, bias), band, feeds)


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_the_definition_is_attention(case: Case) -> None:
    wide = {k: a.astype(np.float64) if a.dtype.kind == "f" else a for k, a in case.feeds.items()}
    expected = attention(case.feeds, case.band)
    reference = harness.Reference(harness.build(case.text, wide=True))
    (got,) = reference(wide)
    (allowed,) = harness.noise(reference, wide, [got])
    # Both sides round: `noise` bounds the error of the graph, and that of the loop is no larger.
    assert np.isfinite(got).all()
    assert (np.abs(got - expected) <= 2.0 * allowed).all()

    (short,) = harness.runtime(harness.build(case.text), case.feeds)
    # To first order the error grows as the unit roundoff, by 2^29 from f64 to f32.
    assert short.dtype == np.float32 and np.isfinite(short).all()
    assert (np.abs(short - expected) <= 2.0**29 * allowed).all()


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_the_expansion_is_the_definition(case: Case) -> None:
    harness.assert_holds(EXPAND, case.text, {}, case.feeds)
    model = harness.build(case.text)
    EXPAND.rewrite(model)
    harness.assert_legal(model)
    (got,) = harness.runtime(model, case.feeds)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 9, 0])
@pytest.mark.parametrize("expanded", [False, True], ids=["function", "expanded"])
def test_a_window_ends_before_its_own_distance(window: int, causal: bool, expanded: bool) -> None:
    tokens = 8
    # All scores are 0 and v is the identity, so y[i, j] is 1 / (how many i sees) where i sees j.
    band = Band(scale=1.0, window=window, causal=causal, softcap=0.0)
    zeros = np.zeros((1, 1, tokens, tokens), np.float32)
    feeds = {
        "q": zeros,
        "k": zeros,
        "v": np.eye(tokens, dtype=np.float32)[None, None],
        "padding": np.ones((1, tokens), bool),
    }
    model = harness.build(text_of(1, 1, tokens, band))
    if expanded:
        EXPAND.rewrite(model)
    i, j = np.indices((tokens, tokens))
    seen = np.ones((tokens, tokens), bool) if window == 0 else np.abs(i - j) <= window - 1
    if causal:
        seen &= j <= i
    for (y,) in (harness.runtime(model, feeds), harness.Reference(model)(feeds)):
        np.testing.assert_array_equal(y[0, 0] > 0.0, seen)
        # A sum of ones is exact and so rounding is the division's, half an ulp, and exp(0) = 1; an
        # implementation that multiplies by the reciprocal makes it 1.5.
        np.testing.assert_allclose(y[0, 0], seen / seen.sum(-1, keepdims=True), rtol=2.0**-22)


def test_nobody_sees_padding() -> None:
    band = Band(scale=0.5, window=3, causal=False, softcap=0.0)
    model = harness.build(text_of(2, 1, 4, band))
    feeds = feeds_of(heads=2, groups=1, tokens=6, width=4)
    feeds["padding"] = np.array([[True, True, True, True, False, False]] * 2)
    (first,) = harness.runtime(model, feeds)
    feeds["k"][..., 4:, :] = 1e3
    feeds["v"][..., 4:, :] = -1e3
    (second,) = harness.runtime(model, feeds)
    np.testing.assert_array_equal(first, second)  # token 5 still sees token 3


def test_attributes_have_defaults() -> None:
    feeds = feeds_of(heads=4, groups=2, tokens=5, width=4)
    bare = harness.build(text_of(4, 2, 4, None))
    (node,) = dialect.band_attentions(bare.graph)
    default = Band(scale=1.0, window=0, causal=False, softcap=0.0)
    assert Band.of(node) == default
    spelt = harness.build(text_of(4, 2, 4, default))
    np.testing.assert_array_equal(harness.runtime(bare, feeds), harness.runtime(spelt, feeds))
    harness.assert_holds(EXPAND, text_of(4, 2, 4, None), {}, feeds)


def test_the_definition_runs_where_it_is_not_inlined() -> None:
    # With every attribute given: onnx's evaluator and its inliner both forget defaults (onnx 1.23).
    spelt = harness.build(text_of(4, 2, 4, Band(scale=0.5, window=2, causal=True, softcap=3.0)))
    feeds = feeds_of(heads=4, groups=2, tokens=5, width=4)
    direct = ReferenceEvaluator(ir.to_proto(spelt)).run(None, feeds)
    np.testing.assert_array_equal(direct, harness.Reference(spelt)(feeds))


def test_a_band_is_read_from_its_node() -> None:
    band = Band(scale=0.125, window=257, causal=True, softcap=50.0)
    (node,) = dialect.band_attentions(harness.build(text_of(4, 2, 4, band)).graph)
    assert Band.of(node) == band


def test_every_definition_is_a_fresh_copy() -> None:
    one, two = dialect.band_attention_function(), dialect.band_attention_function()
    assert one is not two
    assert one.identifier() == (dialect.DOMAIN, dialect.BAND_ATTENTION, "")
    biased = dialect.band_attention_function(dialect.BIASED)
    assert biased.identifier() == (dialect.DOMAIN, dialect.BAND_ATTENTION, dialect.BIASED)


def test_a_model_gets_the_definitions_that_it_uses() -> None:
    band = Band(scale=0.5, window=0, causal=False, softcap=0.0)
    for bias, overload in (("", ""), ("1,2", dialect.BIASED)):
        model = harness.build(text_of(2, 2, 4, band, bias))
        assert [key[2] for key in model.functions] == [overload]
        EXPAND.rewrite(model)
        dialect.define(model)
        assert not model.functions and dialect.DOMAIN not in model.opset_imports


LEFT_ALONE = {
    "an open width of grouped heads": """
        f (float[B,4,T,D] q, float[B,2,T,D] k, float[B,2,T,D] v, bool[B,T] padding)
            => (float[B,4,T,D] y)
        { y = goldfold.BandAttention (q, k, v, padding) }
    """,
    "an open width of v": """
        f (float[B,4,T,8] q, float[B,2,T,8] k, float[B,2,T,D] v, bool[B,T] padding)
            => (float[B,4,T,D] y)
        { y = goldfold.BandAttention (q, k, v, padding) }
    """,
    "heads that groups do not divide": """
        f (float[B,4,T,8] q, float[B,3,T,8] k, float[B,3,T,8] v, bool[B,T] padding)
            => (float[B,4,T,8] y)
        { y = goldfold.BandAttention (q, k, v, padding) }
    """,
}


@pytest.mark.parametrize("text", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_cannot_be_expanded_is_named(text: str) -> None:
    assert harness.assert_left_alone(EXPAND, text).refused


def test_an_open_width_is_no_matter_without_groups() -> None:
    text = """
    f (float[B,4,T,D] q, float[B,1,T,D] k, float[B,1,T,D] v, bool[B,T] padding)
        => (float[B,4,T,D] y)
    { y = goldfold.BandAttention <window: int = 2> (q, k, v, padding) }
    """
    model = harness.build(text)
    assert EXPAND.rewrite(model).applied
    harness.assert_legal(model)


def test_names_that_are_taken_are_not_given_again() -> None:
    text = """
    f (float[B,4,T,8] q, float[B,1,T,8] k, float[B,1,T,8] v, bool[B,T] padding)
        => (float[B,4,T,8] y, float[B,4,T,8] z)
    {
        z = Neg(q)
        y = goldfold.BandAttention (z, k, v, padding)
    }
    """
    model = harness.build(text)
    model.graph.node(0).outputs[0].name = "y.scaled"
    assert EXPAND.rewrite(model).applied
    harness.assert_legal(model)
