"""Quantized graphs in Core ML packages: what lies in the file, what it means, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

pytest.importorskip("coremltools")

from goldfold.exporter import registry
from goldfold.exporter.errors import GoldfoldError, RewriteError, TargetError
from goldfold.exporter.ir.program import Program, infer_shapes
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.sink_dequantize_past_gather import SinkDequantizePastGather
from goldfold.targets.coreml.build import Place
from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.layout import DATA, WEIGHTS
from goldfold.targets.coreml.package import Package
from tests.targets.coreml.mil import CONTRACT, KINDS, _numbers_out, ops, package_of, stored

TARGET = registry.target("coreml")
RNG = np.random.default_rng(5)

Arrays = Mapping[str, np.ndarray]


def floats(*shape: int, low: float = -4, high: float = 4) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def integers(kind: str, *shape: int) -> np.ndarray:
    bits = 4 if kind.endswith("4") else 8
    low = 0 if kind.startswith("u") else -(1 << (bits - 1))
    wide = RNG.integers(low, low + (1 << bits), shape)
    return wide.astype(getattr(ml_dtypes, kind) if bits == 4 else kind)


def both(
    text: str, weights: Arrays, feeds: Arrays, folder: Path, system: str = "iOS18"
) -> tuple[np.ndarray, np.ndarray, Package]:
    """(through a package, in f64; by ONNX Runtime, in f32; the package)"""
    model = docstring.graph(text, dict(weights))
    infer_shapes(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    (expected,) = session.run(None, dict(feeds))
    package = packed(model, feeds, folder, system)
    return Evaluator(package, precision="f64")(feeds)["y"], expected, package


def packed(model: ir.Model, feeds: Arrays, folder: Path, system: str = "iOS18") -> Package:
    program = Program(model, CONTRACT)
    SinkDequantizePastGather().rewrite(model)
    _numbers_out(model.graph)
    places = {name: Place(array.shape, KINDS[str(array.dtype)]) for name, array in feeds.items()}
    return package_of(program, places, folder, system)


# --- weights

MAPS = {
    "a channel": ("int8[8,6] w, float[6] s", "<axis: int = 1> (w, s)", "int8", (6,)),
    "one": ("uint8[8,6] w, float s", "(w, s)", "uint8", ()),
    "a block": ("int8[8,6] w, float[2,6] s", "<axis: int = 0, block_size: int = 4> (w, s)",
                "int8", (2, 6)),
    "a zero": ("uint8[8,6] w, float[6] s, uint8[6] z", "<axis: int = 1> (w, s, z)", "uint8", (6,)),
    "four bits": ("int4[8,6] w, float[2,6] s", "<axis: int = 0, block_size: int = 4> (w, s)",
                  "int4", (2, 6)),
    "four bits and a zero": ("uint4[8,6] w, float[6] s, uint4[6] z", "<axis: int = 1> (w, s, z)",
                             "uint4", (6,)),
}  # fmt: skip


@pytest.mark.parametrize("what", MAPS)
@pytest.mark.parametrize("rank", [2, 4])
def test_weights_stay_integers(what: str, rank: int, tmp_path: Path) -> None:
    """A map of 4 axes is a `matmul`, which reads them as they are; others are `linear`, turned."""
    names, call, kind, scales = MAPS[what]
    outer = "T" if rank == 2 else "B,2,T"
    text = f"""
    f (float[{outer},8] x, {names}) => (float[{outer},6] y)
    {{
        d = DequantizeLinear {call}
        y = MatMul(x, d)
    }}"""
    weights = {"w": integers(kind, 8, 6), "s": floats(*scales, low=0.1)}
    if ", z)" in call:
        weights["z"] = integers(kind, 6)
    x = floats(3, 8) if rank == 2 else floats(1, 2, 3, 8)
    found, expected, package = both(text, weights, {"x": x}, tmp_path)
    # ONNX Runtime's f32: 8 terms of up to 4 · 4 · 255.
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * 2.0**-23 * 8 * 4 * 4 * 255)
    assert ops(package)["constexpr_blockwise_shift_scale"] == 1
    held = max(stored(package.function()), key=np.size)  # an operation's inputs have no order
    wide = weights["w"].astype(np.int16)
    np.testing.assert_array_equal(held, wide.T if rank == 2 else wide)
    assert package.system == 9


@pytest.mark.parametrize(("kind", "shape"), [("int4", (3, 3)), ("uint4", (5, 5)), ("int4", (1, 3))])
def test_odd_counts_of_four_bits(kind: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """Few enough lie in the program itself; of an odd number, half a byte is idle."""
    k, n = shape
    text = f"""
    f (float[T,{k}] x, {kind}[{k},{n}] w, float[{n}] s) => (float[T,{n}] y)
    {{
        d = DequantizeLinear <axis: int = 1> (w, s)
        y = MatMul(x, d)
    }}"""
    weights = {"w": integers(kind, k, n), "s": floats(n, low=0.1)}
    found, expected, _ = both(text, weights, {"x": floats(2, k)}, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=k * 2.0**-23 * k * 4 * 4 * 15)


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8"])
def test_coremltools_reads_the_same_integers(kind: str, tmp_path: Path) -> None:
    """Its own reader of weight files against ours: how two numbers share a byte is its format."""
    from coremltools.libmilstoragepython import _BlobStorageReader

    numbers = integers(kind, 8, 6)
    text = f"""
    f (float[T,8] x, {kind}[8,6] w, float[6] s) => (float[T,6] y)
    {{
        d = DequantizeLinear <axis: int = 1> (w, s)
        y = MatMul(x, d)
    }}"""
    weights = {"w": numbers, "s": floats(6, low=0.1)}
    package = packed(docstring.graph(text, weights), {"x": floats(2, 8)}, tmp_path)
    file = package.path / DATA / WEIGHTS
    reader = _BlobStorageReader(str(file))
    theirs = np.array(getattr(reader, f"read_{kind}_data")(64)).astype(np.int16)
    np.testing.assert_array_equal(theirs.reshape(6, 8), numbers.astype(np.int16).T)
    np.testing.assert_array_equal(stored(package.function())[0], theirs.reshape(6, 8))
    assert file.stat().st_size <= 128 + numbers.size // (2 if kind.endswith("4") else 1) + 64


def test_other_constants_are_dequantized_while_building(tmp_path: Path) -> None:
    """A bias of 32 bits, as other quantizers write it."""
    text = """
    f (float[T,4] x) => (float[T,4] y)
    {
        b = Constant <value: tensor = int32[4] {100, -200, 300, 4000}> ()
        s = Constant <value_float: float = 0.125> ()
        d = DequantizeLinear(b, s)
        y = Add(x, d)
    }"""
    found, expected, package = both(text, {}, {"x": floats(2, 4)}, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=2.0**-22)
    assert ops(package) == {"add": 1, "identity": 1}


# --- tables


@pytest.mark.parametrize(
    ("names", "call", "kind", "scales"),
    [
        ("int8[50,8] w, float[50] s", "<axis: int = 0> (w, s)", "int8", (50,)),
        ("uint8[50,8] w, float s", "(w, s)", "uint8", ()),
        ("int8[50,8] w, float[50,2] s", "<axis: int = 1, block_size: int = 4> (w, s)", "int8",
         (50, 2)),
        ("int4[50,8] w, float[50,2] s", "<axis: int = 1, block_size: int = 4> (w, s)", "int4",
         (50, 2)),
    ],
)  # fmt: skip
def test_rows_of_a_table_are_looked_up_as_integers(
    names: str, call: str, kind: str, scales: tuple[int, ...], tmp_path: Path
) -> None:
    text = f"""
    f (int64[B,T] ids, {names}) => (float[B,T,8] y)
    {{
        d = DequantizeLinear {call}
        y = Gather(d, ids)
    }}"""
    weights = {"w": integers(kind, 50, 8), "s": floats(*scales, low=0.1)}
    feeds = {"ids": RNG.integers(0, 50, (1, 5))}
    found, expected, package = both(text, weights, feeds, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=2.0**-22)
    made = ops(package)
    assert made["gather"] >= 1 and not any(op.startswith("constexpr") for op in made)
    of_table = next(op for op in package.function().operations if op.op == "gather")
    assert of_table.outputs[0][1].word in ("int8", "uint8")
    rows = 50 * 8 // (2 if kind == "int4" else 1)
    scale = weights["s"].nbytes
    assert (package.path / DATA / WEIGHTS).stat().st_size < rows + scale + 64 * 8


# --- activations

ACTIVATIONS = {
    "one step": ("float s, int8 z", "(x, s, z)", "(q, s, z)", {"z": np.int8(0)}),
    "a list of one": ("float[1] s, int8[1] z", "<axis: int = 0> (x, s, z)",
                      "<axis: int = 0> (q, s, z)", {"z": np.array([0], np.int8)}),
    "a zero": ("float s, uint8 z", "(x, s, z)", "(q, s, z)", {"z": np.uint8(131)}),
    "a step a channel": ("float[6] s, int8[6] z", "<axis: int = 2> (x, s, z)",
                         "<axis: int = 2> (q, s, z)", {"z": integers("int8", 6)}),
}  # fmt: skip


@pytest.mark.parametrize("what", ACTIVATIONS)
def test_values_are_rounded_as_onnx_says(what: str, tmp_path: Path) -> None:
    names, down, up, weights = ACTIVATIONS[what]
    text = f"""
    f (float[B,T,6] x, {names}) => (float[B,T,6] y)
    {{
        q = QuantizeLinear {down}
        y = DequantizeLinear {up}
    }}"""
    # Powers of two, so that f64 and f32 agree on every quotient, ties among them.
    steps = 2.0 ** RNG.integers(-5, -2, 6) if "channel" in what else np.array(0.0625)
    steps = steps.reshape(1) if "list" in what else steps
    x = np.round(floats(1, 7, 6, low=-12, high=12) * 64) / np.float32(64)
    weights = {"s": steps.astype(np.float32), **weights}
    found, expected, package = both(text, weights, {"x": x}, tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert ops(package) == {"quantize": 1, "dequantize": 1, "identity": 1}
    assert len(np.unique(expected)) > 20 and np.abs(x).max() > np.abs(expected).max()


# --- what systems have

CHANNEL = """
f (float[T,8] x, int8[8,6] w, float[6] s) => (float[T,6] y)
{
    d = DequantizeLinear <axis: int = 1> (w, s)
    y = MatMul(x, d)
}"""
BLOCK = """
f (float[T,8] x, int8[8,6] w, float[2,6] s) => (float[T,6] y)
{
    d = DequantizeLinear <axis: int = 0, block_size: int = 4> (w, s)
    y = MatMul(x, d)
}"""
PAIR = """
f (float[T,8] x, float s, int8 z) => (float[T,8] y)
{
    q = QuantizeLinear(x, s, z)
    y = DequantizeLinear(q, s, z)
}"""
TABLE = """
f (int64[B,T] x, int8[9,8] w, float s) => (float[B,T,8] y)
{
    d = DequantizeLinear(w, s)
    y = Gather(d, x)
}"""


@pytest.mark.parametrize(("system", "number"), [("iOS16", 7), ("iOS17", 8)])
def test_a_scale_a_channel_suits_older_systems(system: str, number: int, tmp_path: Path) -> None:
    weights = {"w": integers("int8", 8, 6), "s": floats(6, low=0.1)}
    found, expected, package = both(CHANNEL, weights, {"x": floats(3, 8)}, tmp_path, system)
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * 2.0**-23 * 8 * 4 * 4 * 127)
    assert ops(package)["constexpr_affine_dequantize"] == 1
    assert package.system == number


@pytest.mark.parametrize(
    ("text", "system", "reason"),
    [
        (BLOCK, "iOS17", "constexpr_blockwise_shift_scale, which iOS17 .* --minimum-target iOS18"),
        (PAIR, "iOS16", "MIL's quantize, which iOS16 does not have; give --minimum-target iOS17"),
        (
            TABLE,
            "iOS16",
            "to look up bytes, which iOS16 does not have; give --minimum-target iOS17",
        ),
    ],
)
def test_a_system_that_is_too_old_is_named(
    text: str, system: str, reason: str, tmp_path: Path
) -> None:
    feeds = {"x": np.ones((1, 2), np.int64) if text is TABLE else floats(3, 8)}
    model = docstring.graph(text)
    infer_shapes(model)
    with pytest.raises(TargetError, match=reason) as caught:
        packed(model, feeds, tmp_path, system)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("f (float[T,8] x) => (float[T,8] y) {"
         " s = Constant <value_float: float = 0.5> () "
         " z = Constant <value: tensor = int16[1] {0}> () "
         " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }", "to 8 bits, not to INT16"),
        ("f (float[4,8] x, float[4,2] s) => (float[4,8] y) {"
         " q = QuantizeLinear <axis: int = 1, block_size: int = 4> (x, s)"
         " y = DequantizeLinear <axis: int = 1, block_size: int = 4> (q, s) }", "none for blocks"),
        ("f (float[T,8] x) => (float[T,8] y) {"
         " k = Constant <value_ints: ints = [0, 1]> ()"
         " s = ReduceMax <keepdims: int = 0> (x, k) z = Constant <value: tensor = int8 {0}> ()"
         " q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }", "depends on the text"),
    ],
)  # fmt: skip
def test_forms_that_mil_has_not_are_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    text = text.replace("float[4,8] x", "float[N,8] x").replace("float[4,8] y", "float[N,8] y")
    model = docstring.graph(text)
    infer_shapes(model)
    with pytest.raises(
        RewriteError, match=f"coreml cannot spell QuantizeLinear .*{reason}"
    ) as caught:
        packed(model, {"x": floats(4, 8)}, tmp_path)
    assert isinstance(caught.value, GoldfoldError) and len(str(caught.value).splitlines()) == 1
