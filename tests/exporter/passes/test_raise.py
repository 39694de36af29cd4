"""The passes that raise spelt-out norms, rotations and GELUs: their laws, and whole families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from goldfold.exporter.passes.raise_gelu import RaiseGelu
from goldfold.exporter.passes.raise_rms_norm import RaiseRmsNorm
from goldfold.exporter.passes.raise_rotary import RaiseRotary
from tests import models
from tests.exporter.passes import drawing, harness

GELU, RMS, ROTARY = RaiseGelu(), RaiseRmsNorm(), RaiseRotary()


def test_embeddinggemma2_projects_each_token_before_pooling(tmp_path: Path) -> None:
    # The shape that another law sinks past the mean. The real one goes from 512 to 768.
    folder = models.build("embeddinggemma2", tmp_path / "m")
    model: Any = SentenceTransformer(str(folder), device="cpu")
    assert model[0].auto_model.embedding_projection.weight.shape == (72, 48)
    assert model.encode("a text").shape == (72,)


# Beside the examples ------------------------------------------------------------------------------


def gelu(result: str, argument: str, bend: str = "Tanh", x: str = "y = Identity(x)") -> str:
    """A GELU of y = `x`, around t, the tanh or erf of u, in f32."""
    return f"""
    f (float[B,6] x) => (float[B,6] z)
    {{
        half = Constant <value: tensor = float {{0.5}}> ()
        one = Constant <value: tensor = float[1] {{1.0}}> ()
        two = Constant <value: tensor = float {{2.0}}> ()
        three = Constant <value: tensor = float {{3.0}}> ()
        c = Constant <value: tensor = float {{0.044715}}> ()
        r = Constant <value: tensor = float {{0.7978845608}}> ()
        cr = Constant <value: tensor = float {{0.0356774081}}> ()
        q = Constant <value: tensor = float {{0.70710678118}}> ()
        {x}
        {argument}
        t = {bend}(u)
        {result}
    }}
    """


RESULTS = (
    "a = Add(t, one) b = Mul(half, a) z = Mul(b, y)",
    "a = Div(y, two) b = Mul(a, t) z = Add(a, b)",
    "a = Mul(t, half) b = Add(half, a) z = Mul(y, b)",
    "n = Neg(t) a = Sub(one, n) b = Mul(a, y) z = Div(b, two)",
)
ARGUMENTS = (
    "a1 = Pow(y, three) a2 = Mul(c, a1) a3 = Add(a2, y) u = Mul(r, a3)",
    "a1 = Mul(y, y) a2 = Mul(a1, y) a3 = Mul(cr, a2) a4 = Mul(r, y) u = Add(a4, a3)",
    "a1 = Pow(y, two) a2 = Mul(a1, c) a3 = Add(a2, one) a4 = Mul(a3, y) u = Mul(a4, r)",
)
XS = ("y = Identity(x)", "y = Mul(x, c)", "y = Add(x, x)", "s = Sin(x) y = Add(s, x)")


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("x", XS)
def test_gelu_is_known_however_it_is_spelt(result: str, argument: str, x: str) -> None:
    model = harness.build(gelu(result, argument, x=x))
    assert len(GELU.rewrite(model).applied) == 1
    harness.assert_legal(model)
    after = harness.build(f"f (float[B,6] x) => (float[B,6] z) {{ {constants(x)} {TANH} }}")
    assert harness.canonical(model) == harness.canonical(after)


TANH = 'z = Gelu <approximate: string = "tanh"> (y)'


def constants(x: str) -> str:
    c = "c = Constant <value: tensor = float {0.044715}> ()"
    return f"{c} {x}" if "c)" in x else x


def test_erf_with_a_product_instead_of_a_quotient_is_known() -> None:
    model = harness.build(gelu(RESULTS[0], "u = Mul(y, q)", "Erf"))
    assert len(GELU.rewrite(model).applied) == 1
    assert [n.op_type for n in model.graph] == ["Identity", "Gelu"]


@pytest.mark.parametrize(
    ("result", "argument", "bend"),
    [
        ("z = Mul(t, two)", "u = Div(y, two)", "Tanh"),  # a cap on scores
        ("a = Add(t, one) z = Mul(a, half)", "u = Mul(y, half)", "Tanh"),  # a sigmoid
        ("z = Mul(t, y)", "u = Mul(y, q)", "Erf"),
        ("a = Add(t, two) b = Mul(a, half) z = Mul(b, y)", "u = Mul(y, q)", "Erf"),
    ],
)
def test_what_is_no_gelu_is_passed_in_silence(result: str, argument: str, bend: str) -> None:
    assert harness.assert_left_alone(GELU, gelu(result, argument, bend)).refused == []


@pytest.mark.parametrize(("factor", "raised"), [(1 + 1e-7, True), (1 + 1e-6, False)])
@pytest.mark.parametrize(
    ("constant", "argument"),
    [
        ("0.044715", ARGUMENTS[0]),
        ("0.7978845608", ARGUMENTS[0]),
        ("0.7978845608", ARGUMENTS[1]),
        ("0.0356774081", ARGUMENTS[1]),
        ("0.044715", ARGUMENTS[2]),
    ],
)
def test_gelu_constants_may_be_rounded_and_no_more(
    constant: str, argument: str, factor: float, raised: bool
) -> None:
    text = gelu(RESULTS[0], argument).replace(constant, repr(float(constant) * factor))
    log = GELU.rewrite(harness.build(text))
    assert (len(log.applied), len(log.refused)) == ((1, 0) if raised else (0, 1))


def rms(**changed: str) -> str:
    """A norm as Gemma 4 spells it, exponents and all in f32, with some lines changed."""
    lines = {
        "two": "two = Constant <value: tensor = float {2.0}> ()",
        "axis": "axis = Constant <value_ints: ints = [-1]> ()",
        "eps": "eps = Constant <value: tensor = float {1e-6}> ()",
        "root": "root = Constant <value: tensor = float {-0.5}> ()",
        "s": "s = Pow(x, two)",
        "m": "m = ReduceMean(s, axis)",
        "v": "v = Add(m, eps)",
        "r": "r = Pow(v, root)",
        "n": "n = Mul(x, r)",
        "y": "y = Mul(n, g)",
    }
    body = "\n".join({**lines, **changed}.values())
    return f"f (float[B,6] x, float[6] g, float[B,6] z) => (float[B,6] y) {{ {body} }}"


def test_rms_norm_without_epsilon_has_none() -> None:
    model = harness.build(rms(v="", r="r = Pow(m, root)"))
    assert len(RMS.rewrite(model).applied) == 1
    (norm,) = model.graph
    assert norm.attributes["epsilon"].value == 0.0
    assert norm.attributes["stash_type"].value == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"s": "s = Mul(x, z)"},  # not a square
        {"s": "s = Pow(z, two)"},  # the mean is another's
        {"m": "m = ReduceMax(s, axis)"},
        {"v": "v = Sub(m, eps)"},
        {"v": "w = Add(m, eps) v = Add(w, eps)"},
    ],
)
def test_what_is_no_rms_norm_is_passed_in_silence(changed: dict[str, str]) -> None:
    assert harness.assert_left_alone(RMS, rms(**changed)).refused == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"n": "n = Div(x, r)"}, "raised to -0.5, not to 0.5"),
        ({"m": "m = ReduceMean(s)"}, "the axes None"),
        ({"axis": "axis = Constant <value_ints: ints = [0, 1]> ()"}, "the axes [0, 1]"),
        ({"y": "h = Mul(n, g) y = Add(h, r)"}, "also reads the inner Pow"),
    ],
)
def test_a_wrong_norm_is_refused_by_its_fault(changed: dict[str, str], reason: str) -> None:
    (refusal,) = harness.assert_left_alone(RMS, rms(**changed)).refused
    assert reason in refusal.reason


def test_a_gain_that_is_no_constant_stays_outside() -> None:
    model = harness.build(rms(y="y = Mul(n, z)"))
    assert len(RMS.rewrite(model).applied) == 1
    assert [n.op_type for n in model.graph] == ["RMSNormalization", "Mul"]


TOKENS_FIRST = """
f (float[B,T,2,8] x, float[T,4] angles) => (float[B,2,T,8] y, float[B,T,2,8] z, float[B,2,T,8] w)
{
    zero = Constant <value_ints: ints = [0]> ()
    two = Constant <value_ints: ints = [2]> ()
    a = Unsqueeze(angles, zero)
    both = Concat <axis: int = -1> (a, a)
    c = Cos(both)
    s = Sin(both)
    cos = Unsqueeze(c, two)
    sin = Unsqueeze(s, two)
    x1, x2 = Split <axis: int = -1, num_outputs: int = 2> (x)
    n2 = Neg(x2)
    r = Concat <axis: int = -1> (n2, x1)
    xc = Mul(cos, x)
    rs = Mul(sin, r)
    t = Add(rs, xc)
    y = Transpose <perm: ints = [0, 2, 1, 3]> (t)
    z = Neg(t)
    w = Transpose <perm: ints = [0, 2, 1, 3]> (t)
}
"""


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_turned_heads_that_others_read_go_back(data: st.DataObject) -> None:
    harness.assert_holds(ROTARY, TOKENS_FIRST, *data.draw(drawing.draws(TOKENS_FIRST)))


def test_two_rotations_share_their_half_tables() -> None:
    text = TOKENS_FIRST.replace("z = Neg(t)", "z = Identity(v)").replace(
        "y = Transpose",
        "h1, h2 = Split <axis: int = -1, num_outputs: int = 2> (t)\n m2 = Neg(h2)\n"
        "q = Concat <axis: int = -1> (m2, h1)\n tc = Mul(t, cos)\n qs = Mul(q, sin)\n"
        "v = Add(tc, qs)\n y = Transpose",
    )
    model = harness.build(text)
    assert len(ROTARY.rewrite(model).applied) == 2
    harness.assert_legal(model)
    one, two = (n for n in model.graph if n.op_type == "RotaryEmbedding")
    assert list(one.inputs[1:]) == list(two.inputs[1:])
    assert [n.op_type for n in model.graph].count("Cos") == 1
