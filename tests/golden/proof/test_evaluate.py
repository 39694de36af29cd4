"""Every function of a derivation gives what numpy gives, whole and in rows."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import expressions, kinds
from goldfold.golden.proof.evaluate import Evaluator
from goldfold.golden.proof.source import Source
from tests.golden.proof import proof_toys as toys

DIGEST = "0" * 64


def parsed(expression: str, *shared: str) -> expressions.Call:
    lines = toys.text(*shared, f'"c" float32 [1] {DIGEST} = {expression}')
    return expressions.read(lines).constants[0].value


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("model")
    return folder, toys.source(folder)


def value(folder: Path, expression: str, *shared: str) -> np.ndarray:
    """The value, after every division into rows gave the same."""
    call, evaluator = parsed(expression, *shared), Evaluator(Source(folder), lambda call: SCALE)
    found = evaluator.whole(call)
    whole = found.value
    assert evaluator.shape(call) == whole.shape
    off = 0 if found.error is None else found.error.max()
    rows = whole.shape[0] if whole.shape else 1
    for step in (1, 2, 5):
        for start in range(0, rows, step):
            part = evaluator.rows(call, start, min(start + step, rows)).value
            expected = whole[start : start + step] if whole.shape else whole
            np.testing.assert_allclose(part, expected, rtol=0, atol=off, strict=True)
    return whole


SCALE = np.full((toys.ROWS, 1), 0.125, np.float32)
T, W, G = toys.tensor("table"), toys.tensor("w"), toys.tensor("gain")
CASES = {
    T: lambda t: t["table"],
    toys.tensor("half"): lambda t: t["half"],
    toys.tensor("brain"): lambda t: t["brain"].astype(np.float32),
    toys.tensor("ids"): lambda t: t["ids"],
    'literal("float32", (2, 2), (1, 2.5, -0.0, "inf"))': lambda t: np.array(
        [[1, 2.5], [-0.0, np.inf]], np.float32
    ),
    'full("float16", (3, 2), 0.1)': lambda t: np.full((3, 2), 0.1, np.float16),
    'arange("int64", 3, 5, 2)': lambda t: np.arange(3, 13, 2),
    'arange("float32", 0, 4, 0.1)': lambda t: (0.1 * np.arange(4)).astype(np.float32),
    f"transpose({W}, 1, 0)": lambda t: t["w"].T,
    f"transpose(reshape({W}, 4, 6, 64), 2, 0, 1)": lambda t: t["w"]
    .reshape(4, 6, 64)
    .transpose(2, 0, 1),
    f"transpose(reshape({W}, 4, 6, 64), 0, 2, 1)": lambda t: t["w"]
    .reshape(4, 6, 64)
    .transpose(0, 2, 1),
    f"reshape({W}, -1, 7, 32)".replace("7", "4"): lambda t: t["w"].reshape(-1, 4, 32),
    f"reshape({W}, 2, 768)": lambda t: t["w"].reshape(2, 768),
    f"reshape(slice({G}, 0, 5, 6))": lambda t: t["gain"][5],
    f"reshape(reshape(slice({G}, 0, 5, 6)), 1, 1)": lambda t: t["gain"][5].reshape(1, 1),
    f"slice({W}, 0, 3, 9)": lambda t: t["w"][3:9],
    f"slice({W}, 1, 3, 9)": lambda t: t["w"][:, 3:9],
    f"slice({W}, -1, 3, 3)": lambda t: t["w"][:, 3:3],
    f"concat(0, {W}, slice({T}, 0, 0, 3), {T})": lambda t: np.concatenate(
        [t["w"], t["table"][:3], t["table"]]
    ),
    f"concat(1, {W}, {T})": lambda t: np.concatenate([t["w"], t["table"]], 1),
    f"concat(0, {W})": lambda t: t["w"],
    f"take({W}, 0, (3, 0, -1, 3))": lambda t: t["w"][[3, 0, -1, 3]],
    f"take({W}, 1, (3, 0, 63))": lambda t: t["w"][:, [3, 0, 63]],
    f'take({W}, 0, {toys.tensor("ids")})': lambda t: t["w"][t["ids"]],
    f'take({W}, 0, literal("int64", (2,), (3, 0)))': lambda t: t["w"][[3, 0]],
    f"pad({W}, 0, 2, 1)": lambda t: np.pad(t["w"], ((2, 1), (0, 0))),
    f"pad({W}, 1, 2, 1)": lambda t: np.pad(t["w"], ((0, 0), (2, 1))),
    f"expand({G}, 5, 64)": lambda t: np.broadcast_to(t["gain"], (5, 64)),
    f"expand(reshape({G}, 64, 1), 64, 3)": lambda t: np.repeat(t["gain"][:, None], 3, 1),
    f"add({W}, {G})": lambda t: t["w"].astype(float) + t["gain"],
    f"add({G}, {W})": lambda t: t["w"].astype(float) + t["gain"],
    f"sub({W}, 1.5)": lambda t: t["w"].astype(float) - 1.5,
    f"mul({W}, reshape(slice({G}, 0, 0, 24), 24, 1))": lambda t: t["w"].astype(float)
    * t["gain"][:24, None],
    f"div({W}, {G})": lambda t: t["w"].astype(float) / t["gain"],
    f"neg({W})": lambda t: -t["w"].astype(float),
    f"abs({W})": lambda t: np.abs(t["w"].astype(float)),
    f"sqrt(abs({W}))": lambda t: np.sqrt(np.abs(t["w"].astype(float))),
    f"rsqrt(abs({W}))": lambda t: 1 / np.sqrt(np.abs(t["w"].astype(float))),
    f"matmul({W}, transpose({T}, 1, 0))": lambda t: t["w"].astype(float)
    @ t["table"].T.astype(float),
    f'cast({W}, "float16")': lambda t: t["w"].astype(np.float16),
    f'cast({W}, "bfloat16")': lambda t: t["w"].astype(ml_dtypes.bfloat16).astype(np.float32),
    f'cast(mul({W}, 10), "int8")': lambda t: np.rint(t["w"].astype(float) * 10).astype(np.int8),
    f"cosine({W})": lambda t: np.cos(t["w"].astype(float)),
    f"sine({W})": lambda t: np.sin(t["w"].astype(float)),
    f"tanh({W})": lambda t: np.tanh(t["w"].astype(float)),
    f"exp({W})": lambda t: np.exp(t["w"].astype(float)),
    f"log(abs({W}))": lambda t: np.log(np.abs(t["w"].astype(float))),
    f"power(10000, {W})": lambda t: np.power(10000, t["w"].astype(float)),
    f"clip({W}, -0.5, 1)": lambda t: np.clip(t["w"], -0.5, 1),
    f'add({toys.tensor("ids")}, 5)': lambda t: t["ids"] + 5,
    'chosen("float32", (24, 1), "x")': lambda t: SCALE,
    f'nearest({W}, chosen("float32", (24, 1), "x"), 8, 0)': lambda t: toys.nearest(
        t["w"], SCALE, 8, 0
    ),
    f'nearest({W}, expand(full("float32", (), 0.5), 24, 4), 4, 16)': lambda t: toys.nearest(
        t["w"], np.full((24, 4), 0.5, np.float32), 4, 16
    ),
    f'nibbles(cast(clip(mul({W}, 4), -8, 7), "int4"))': lambda t: np.frombuffer(
        toys.raw(np.rint(np.clip(t["w"] * 4, -8, 7)).astype(ml_dtypes.int4)), np.uint8
    ).reshape(24, 32),
}  # fmt: skip


@pytest.mark.parametrize("expression", CASES)
def test_functions_are_numpys(model, expression: str) -> None:
    folder, tensors = model
    expected = CASES[expression](tensors)
    held = value(folder, expression)
    np.testing.assert_array_equal(held, np.asarray(expected, held.dtype), strict=True)
    assert np.asarray(expected).astype(np.float64).tobytes() == held.astype(np.float64).tobytes()


def test_every_function_is_tried() -> None:
    tried = {name for name in expressions.FUNCTIONS if any(f"{name}(" in one for one in CASES)}
    assert expressions.FUNCTIONS.keys() - tried == {"steps", "packed", "assumed"}  # test_check.py


def test_shared_parts_are_evaluated_once_and_give_the_same(model) -> None:
    folder, tensors = model
    expected = tensors["w"].astype(float) * 2 + tensors["w"].astype(float) * 2
    held = value(folder, "add(%2, %2)", f"%1 = {W}", "%2 = mul(%1, 2)")
    np.testing.assert_array_equal(held, expected)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ('tensor("model.safetensors", "nothing")', "has no tensor 'nothing'"),
        ('tensor("other.safetensors", "w")', "No such file"),
        ('tensor("../model.safetensors", "w")', "no place in its folder"),
        ('tensor("/etc/passwd", "w")', "no place in its folder"),
        (f"transpose({W}, 0, 0)", "transpose of"),
        (f"reshape({W}, 5, 5)", "reshape of"),
        (f"reshape({W}, -1, -1)", "reshape of"),
        (f"slice({W}, 2, 0, 1)", "has no axis 2"),
        (f"slice({W}, 0, 0, 25)", "takes 0 and 25"),
        (f"slice({W}, 0, 9, 3)", "takes 9 and 3"),
        (f"pad({W}, 0, -2, 1)", "takes -2 and 1"),
        (f"concat(0, {W}, {G})", "do not fit"),
        (f"take({W}, 0, (24,))", "index beyond 24"),
        (f"take({W}, 0, {G})", "index beyond 24"),
        (f"matmul({W}, {T})", "matmul of"),
        (f'cast(mul({W}, 1e9), "int8")', "beyond the range of int8"),
        (f'cast({W}, "float7")', "'float7' is no kind"),
        (f"nearest({W}, {G}, 8, 0)", "has scales [64]"),
        (f"add({W}, slice({G}, 0, 0, 3))", "broadcast"),
        ('full("float32", (10000000, 1000000), 1)', "would have the shape"),
        ('literal("float32", (2,), "zlib:!")', "damaged"),
        ('literal("float32", (2,), "zlib:eJw=")', "not of the 8 bytes"),
        ('literal("float32", (2,), "text")', "neither a list"),
        ('literal("float32", (2,), (1, 2, 3))', "cannot reshape"),
        (f"steps({W}, {W}, 8, 1, 1.0, 1.0)", "steps is no value"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(model, expression: str, says: str) -> None:
    with pytest.raises((GoldenError, ValueError), match=says.replace("[", r"\[")):
        value(model[0], expression)


def test_shared_parts_that_hold_each_other_end(model) -> None:
    big = f"concat(0, {', '.join([f'expand({W}, 1000, 24, 64)'] * 2)})"
    shared = [f"%1 = {big}"] + [f"%{n} = add(%{n - 1}, %{n - 1})" for n in range(2, 60)]
    evaluator = Evaluator(Source(model[0]), lambda call: SCALE)
    with pytest.raises(GoldenError, match="more than 20,000 steps"):
        evaluator.rows(parsed("add(%59, %59)", *shared), 0, 1)


@given(st.floats(width=64, allow_nan=False), st.sampled_from(["float16", "bfloat16", "float32"]))
@settings(max_examples=1500, deadline=None)
def test_rounding_is_to_the_nearest_even(number: float, kind: str) -> None:
    """Against exact arithmetic: no neighbour is nearer, and of two as near it is the even one."""
    from fractions import Fraction

    held = np.array([number])
    found = kinds.rounded(held, kind)[0]
    assert np.signbit(found) == np.signbit(number)
    if not np.isfinite(found):
        largest = {"float16": 65504, "bfloat16": 3.3895313892515355e38, "float32": 2.0**128}[kind]
        assert abs(number) >= largest
        return
    unit = Fraction(float(kinds.unit(np.array([max(abs(found), 0.0)]), kind)[0]))
    off = abs(Fraction(float(found)) - Fraction(number))
    assert off <= unit / 2
    if off == unit / 2:
        assert (Fraction(float(found)) / unit) % 2 == 0


@given(st.integers(5, 7), st.integers(1, 5), st.integers(8, 40), st.randoms())
@settings(max_examples=200, deadline=None)
def test_packed_rows_are_unpacked(bits: int, rows: int, width: int, random) -> None:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    numbers = np.array([[random.randint(low, high) for _ in range(width)] for _ in range(rows)])
    packed = kinds.pack(numbers, bits)
    assert packed.shape == (rows, width - kinds.riders(width, bits))
    np.testing.assert_array_equal(kinds.unpack(packed, width, bits), numbers)


@given(st.integers(5, 7), st.integers(10, 40), st.randoms())
@settings(max_examples=100, deadline=None)
def test_packed_rows_are_those_of_the_pass(bits: int, width: int, random) -> None:
    from goldfold.exporter.passes.pack_table import Layout

    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    numbers = np.array([[random.randint(low, high) for _ in range(width)]], np.int8)
    np.testing.assert_array_equal(kinds.pack(numbers, bits), Layout(bits, width).pack(numbers))


@pytest.mark.parametrize(
    "expression",
    ["cosine(mul({W}, 100))", "exp({W})", "tanh({W})", "log(abs({W}))", "power(10000, {W})"],
)
def test_another_library_is_within_the_error(model, expression: str) -> None:
    """float32's functions, which are not rounded correctly, on the same numbers."""
    folder, tensors = model
    w = tensors["w"]
    other = {
        "cosine": lambda: np.cos((w * np.float32(100)).astype(np.float32)),
        "exp": lambda: np.exp(w), "tanh": lambda: np.tanh(w), "log": lambda: np.log(np.abs(w)),
        "power": lambda: np.power(np.float32(10000), w),
    }[expression.partition("(")[0]]()  # fmt: skip
    text = (
        expression.format(W=W).replace("mul(", "cast(mul(").replace(", 100)", ', 100), "float32")')
    )
    part = Evaluator(Source(folder), lambda call: SCALE).whole(parsed(text))
    assert part.error is not None and other.dtype == np.float32
    allowed = part.error + kinds.unit(np.abs(part.value) + part.error, "float32") / 2
    assert (np.abs(other.astype(float) - part.value) <= allowed).all()
    assert (part.error <= np.maximum(np.abs(part.value), 1) * 2.0**-22).all()
