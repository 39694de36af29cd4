"""Every row of the op table alone: lowered, saved, read and evaluated, against ONNX Runtime, over
drawn shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("coremltools")

from goldfold.exporter.ir import dialect
from goldfold.targets.coreml.lower.table import ROWS
from tests.targets.coreml.mil import lowered, model_of

_EXAMPLES = settings(
    max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


class Draw:
    """What a case draws: sizes from hypothesis, numbers from a generator it seeds."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))

    def size(self, least: int = 1, most: int = 5) -> int:
        return self.data.draw(st.integers(least, most))

    def of(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def shape(self, rank: int) -> tuple[int, ...]:
        return tuple(self.size() for _ in range(rank))

    def floats(self, *shape: int, low: float = -4, high: float = 4) -> np.ndarray:
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def ints(self, *shape: int, low: int = -4, high: int = 4) -> np.ndarray:
        return self.rng.integers(low, high + 1, shape)

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Two arrays that broadcast."""
        shape = self.shape(self.of(1, 2, 3, 4))
        other = tuple(size if self.of(True, False) else 1 for size in shape)
        cut = self.size(0, len(shape) - 1)
        return self.floats(*shape), self.floats(*other[cut:])


Case = tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]
"""Inputs, constants, attributes."""
CASES: dict[str, list[Callable[[Draw], Case]]] = {}


def case(*ops: str) -> Callable:
    def register(make: Callable[..., Case]) -> Callable[..., Case]:
        for op in ops:
            takes_op = len(inspect.signature(make).parameters) > 1
            bound = (lambda draw, op=op: make(draw, op)) if takes_op else make
            CASES.setdefault(op, []).append(bound)
        return make

    return register


@case("Add", "Sub", "Mul", "Max", "Min", "Equal", "Less", "LessOrEqual", "Greater",
      "GreaterOrEqual")  # fmt: skip
def binary(draw: Draw) -> Case:
    a, b = draw.pair()
    a, b = (np.rint(a), np.rint(b)) if draw.of(True, False) else (a, b)  # equals among them
    return ({"a": a}, {"b": b}, {}) if draw.of(True, False) else ({"a": a, "b": b}, {}, {})


@case("Add", "Sub", "Mul", "Equal", "Less", "Max")
def of_integers(draw: Draw) -> Case:
    shape = draw.shape(2)
    return {"a": draw.ints(*shape), "b": draw.ints(*shape)}, {}, {}


@case("Div")
def division(draw: Draw) -> Case:
    a, b = draw.pair()
    return {"a": a, "b": np.copysign(np.abs(b) + 0.5, b)}, {}, {}


@case("Pow")
def power(draw: Draw) -> Case:
    shape = draw.shape(2)
    return {"a": draw.floats(*shape, low=0.1)}, {"b": np.float32(draw.of(0.5, 2, 3))}, {}


@case("Abs", "Exp", "Erf", "Sin", "Cos", "Tanh", "Sign", "Sigmoid", "Relu", "Ceil", "Floor",
      "Softplus", "Neg", "Identity")  # fmt: skip
def unary(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(draw.of(1, 2, 3, 4)))}, {}, {}


@case("Sqrt", "Log", "Reciprocal")
def unary_positive(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(2), low=0.1)}, {}, {}


@case("LeakyRelu")
def leaky(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(2))}, {}, {"alpha": draw.of(0.0, 0.1, 0.3)}


@case("Gelu")
def gelu(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(3))}, {}, {"approximate": draw.of("none", "tanh")}


@case("Clip")
def clip(draw: Draw) -> Case:
    bounds = draw.of({"b": -1.0}, {"b": -1.0, "c": 2.0}, {"c": 2.0})
    constants = {name: np.float32(bound) for name, bound in bounds.items()}
    left_out = {} if "b" in bounds else {"b": None}
    return {"a": draw.floats(*draw.shape(2)), **left_out}, constants, {}


@case("Cast")
def cast(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(2))}, {}, {"to": draw.of(1, 6, 7, 9, 10)}


@case("Softmax")
def softmax(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(3), low=-40, high=40)}, {}, {"axis": draw.of(-1, 0, 1)}


@case("CumSum")
def cumulated(draw: Draw) -> Case:
    how = {"exclusive": draw.of(0, 1), "reverse": draw.of(0, 1)}
    return {"a": draw.floats(*draw.shape(2))}, {"b": np.array(draw.of(0, 1, -1))}, how


@case("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
def reduction(draw: Draw) -> Case:
    axes = draw.of([0], [-1], [1, 2], [0, 1, 2])
    return {"a": draw.floats(*draw.shape(3))}, {"b": np.array(axes)}, {"keepdims": draw.of(0, 1)}


@case("ArgMax", "ArgMin")
def argument(draw: Draw) -> Case:
    how = {"axis": draw.of(0, 1, -1), "keepdims": draw.of(0, 1)}
    return {"a": np.rint(draw.floats(*draw.shape(3)))}, {}, how


@case("Reshape")
def reshape(draw: Draw) -> Case:
    a, b, c = draw.shape(3)
    wanted = draw.of([0, -1], [b * a, c], [-1], [0, 0, c, 1], [a, 0, -1])
    return {"a": draw.floats(a, b, c)}, {"b": np.array(wanted)}, {}


@case("Flatten")
def flatten(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(3))}, {}, {"axis": draw.of(0, 1, 2, -1)}


@case("Transpose")
def transpose(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(3))}, {}, draw.of({}, {"perm": [1, 0, 2]})


@case("Squeeze")
def squeeze(draw: Draw) -> Case:
    axes = draw.of({}, {"b": np.array([0])}, {"b": np.array([-2])})
    return {"a": draw.floats(1, draw.size(2), 1, draw.size(2))}, axes, {}


@case("Unsqueeze")
def unsqueeze(draw: Draw) -> Case:
    axes = np.array(draw.of([0], [-1], [1, 3], [2, 0]))
    return {"a": draw.floats(*draw.shape(2))}, {"b": axes}, {}


@case("Expand")
def expand(draw: Draw) -> Case:
    n = draw.size()
    wanted = draw.of([1, n], [4, n], [2, 3, n], [1])
    return {"a": draw.floats(1, n)}, {"b": np.array(wanted)}, {}


@case("Tile")
def tile(draw: Draw) -> Case:
    return {"a": draw.floats(*draw.shape(2))}, {"b": np.array([draw.size(), draw.size()])}, {}


@case("Slice")
def sliced(draw: Draw) -> Case:
    starts, ends = draw.of(([0], [2]), ([-2], [2**63 - 1]), ([1], [-1]))
    axes, steps = [draw.of(0, 1, -1)], [draw.of(1, 2)]
    arrays = (np.array(numbers) for numbers in (starts, ends, axes, steps))
    return {"a": draw.floats(*(draw.size(3) for _ in range(3)))}, dict(zip("bcde", arrays)), {}  # noqa: B905


@case("Concat")
def joined(draw: Draw) -> Case:
    n, axis = draw.size(), draw.of(0, -2)
    return {"a": draw.floats(draw.size(), n), "b": draw.floats(3, n)}, {}, {"axis": axis}


@case("Gather")
def gathered(draw: Draw) -> Case:
    axis, rows = draw.of(0, 1), draw.size(2)
    table = draw.floats(rows, rows, 3)
    if draw.of(True, False):  # a place that is known, and may count from the end
        return {"a": table}, {"b": np.array(draw.of(0, -1, [1, -2]))}, {"axis": axis}
    return {"b": draw.ints(*draw.shape(2), low=0, high=rows - 1)}, {"a": table}, {"axis": axis}


@case("GatherElements")
def gathered_elements(draw: Draw) -> Case:
    rows, columns = draw.size(2), draw.size()
    indices = draw.ints(draw.size(), columns, low=0, high=rows - 1)
    return {"a": draw.floats(rows, columns), "b": indices}, {}, {"axis": 0}


@case("ScatterElements")
def scattered_elements(draw: Draw) -> Case:
    rows, columns = draw.size(), draw.size(2)
    places = draw.ints(rows, draw.size(), low=0, high=columns - 1)
    updates = np.ones(places.shape, np.float32)  # equal ones, so that their order is none
    return {"a": draw.floats(rows, columns), "b": places, "c": updates}, {}, {"axis": 1}


@case("GatherND")
def gathered_nd(draw: Draw) -> Case:
    n = draw.size()
    places = draw.ints(n, draw.size(), 1, low=0, high=2)
    return {"a": draw.floats(n, 3, 2), "b": places}, {}, {"batch_dims": 1}


@case("MatMul")
def matmul(draw: Draw) -> Case:
    k = draw.size()
    a = draw.floats(*draw.shape(draw.of(1, 2, 3)), k)
    b = draw.floats(k, draw.size())
    return ({"a": a}, {"b": b}, {}) if draw.of(True, False) else ({"a": a, "b": b}, {}, {})


@case("Gemm")
def gemm(draw: Draw) -> Case:
    m, k, n = draw.shape(3)
    how = {"transA": draw.of(0, 1), "transB": draw.of(0, 1)}
    how |= draw.of({}, {"alpha": 0.5, "beta": 2.0})
    a = draw.floats(*((k, m) if how["transA"] else (m, k)))
    b = draw.floats(*((n, k) if how["transB"] else (k, n)))
    return {"a": a}, {"b": b, **draw.of({}, {"c": draw.floats(n)})}, how


@case("RMSNormalization", "LayerNormalization")
def norm(draw: Draw, op: str) -> Case:
    n = draw.size(2)
    shift = {"c": draw.floats(n)} if op == "LayerNormalization" and draw.of(True, False) else {}
    gain = np.ones(n, np.float32) if draw.of(True, False) else draw.floats(n)
    how = {"axis": -1, "epsilon": draw.of(1e-6, 0.1)}
    return {"a": draw.floats(*draw.shape(2), n)}, {"b": gain, **shift}, how


@case("RotaryEmbedding")
def rotary(draw: Draw) -> Case:
    tokens, half, turned = draw.size(2), draw.size(), draw.of(0, 2)
    width = 2 * half if not turned else 2 + draw.size(0, 3) * 2
    angles = draw.floats(7, turned // 2 or half)
    positions = draw.ints(1, tokens, low=0, high=6)
    how = {"rotary_embedding_dim": turned, "num_heads": 2 if turned else 0}
    tables = {"b": np.cos(angles), "c": np.sin(angles)}
    known = {"d": positions} if draw.of(True, False) else {}
    return ({"a": draw.floats(1, 2, tokens, width), **({} if known else {"d": positions})},
            {**tables, **known}, how)  # fmt: skip


def run(op: str, made: Case, outputs: int = 1, **how: Any) -> tuple[list, list]:
    """(through MIL in f64, through ONNX Runtime in f32)."""
    inputs, constants, attributes = made
    model = model_of(op, inputs, constants, outputs, **how, **attributes)
    feeds = {name: array for name, array in inputs.items() if array is not None}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lowered(model, feeds), session.run(None, feeds)


def check(found: list, expected: list, terms: int = 64) -> None:
    """ONNX Runtime's own rounding is all that may differ, since our side computes in f64: 2^-24 for
    each of at most `terms` operations behind a number, of operands that are at most 40 in size."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        if theirs.dtype.kind != "f":
            np.testing.assert_array_equal(ours, theirs)
            continue
        if theirs.dtype == np.float16:  # in f64 nothing is rounded to fp16; numbers up to 4 are
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=4 * 2.0**-11)
            continue
        size = max(1.0, float(np.abs(theirs).max(initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=terms * 2.0**-24 * 40 * size)


@pytest.mark.parametrize("op", sorted(CASES))
def test_row_means_what_onnx_runtime_computes(op: str) -> None:
    @given(st.data())
    @_EXAMPLES
    def every_case(data: st.DataObject) -> None:
        for make in CASES[op]:
            check(*run(op, make(Draw(data))))

    every_case()


@given(st.data())
@_EXAMPLES
def test_ops_of_several_outputs(data: st.DataObject) -> None:
    draw = Draw(data)
    sizes = [draw.size(), draw.size(), draw.size()]
    a = draw.floats(2, sum(sizes))
    check(*run("Split", ({"a": a}, {"b": np.array(sizes)}, {"axis": -1}), outputs=3))
    check(*run("Split", ({"a": draw.floats(2, 5)}, {}, {"axis": 1, "num_outputs": 3}), outputs=3))


@given(st.data())
@_EXAMPLES
def test_band_attention_means_its_function(data: st.DataObject) -> None:
    draw = Draw(data)
    groups, each = draw.of((1, 1), (1, 3), (2, 1), (2, 2))
    tokens, width = draw.size(1, 9), draw.size(1, 4)
    q = draw.floats(1, groups * each, tokens, width)
    k, v = (draw.floats(1, groups, tokens, width) for _ in range(2))
    padding = np.arange(tokens)[None] < draw.size(1, tokens)
    how = {
        "scale": 0.5, "window": draw.of(0, 1, 3), "causal": draw.of(0, 1),
        "softcap": draw.of(0.0, 5.0),
    }  # fmt: skip
    fed = {"a": q, "b": k, "c": v, "d": padding}
    if draw.of(False, True):
        bias = draw.floats(1, draw.of(1, groups * each), tokens, tokens)
        fed, how = {**fed, "e": bias}, {**how, "overload": dialect.BIASED}
    model = model_of("BandAttention", fed, domain="goldfold", **how)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, fed)
    # MIL takes no truth values as inputs: the mask goes in as numbers.
    wider = numbers_in(model, "d")
    feeds = {**fed, "d": padding.astype(np.int64)}
    (found,) = lowered(wider, feeds)
    i, j = np.arange(tokens)[:, None], np.arange(tokens)[None]
    seen = padding & ((np.abs(i - j) < how["window"]) | (how["window"] == 0))
    seen &= (j <= i) | (how["causal"] == 0)
    sees = seen.any(axis=1)
    check([found[:, :, sees]], [expected[:, :, sees]], terms=64 + tokens)
    # A token that sees nobody has scores near −3e4, where f32 rounds them by up to 2^-10: each
    # weight is off by that part of itself, twice for the sum, and values are up to 4 in size.
    assert np.abs(found - expected).max() <= 4 * 2 * 2.0**-10


def numbers_in(model: Any, *names: str) -> Any:
    """The model with these inputs as integers, and a Cast to truth values behind each."""
    import onnx

    for name in names:
        value = next(v for v in model.graph.input if v.name == name)
        value.type.tensor_type.elem_type = onnx.TensorProto.INT64
        cast = onnx.helper.make_node("Cast", [name], [f"{name}_bool"], to=onnx.TensorProto.BOOL)
        for node in model.graph.node:
            for place, one in enumerate(node.input):
                node.input[place] = f"{name}_bool" if one == name else one
        model.graph.node.insert(0, cast)
    return model


@pytest.mark.parametrize("op", ["And", "Or", "Xor", "Not", "Where"])
def test_rows_of_truth_values(op: str) -> None:
    rng = np.random.default_rng(7)
    for shapes in (((2, 3), (2, 3)), ((2, 3), (1, 3)), ((2, 3, 1), (3, 4))):
        a, b = (rng.integers(0, 2, shape).astype(bool) for shape in shapes)
        feeds: dict[str, np.ndarray] = {"a": a} if op == "Not" else {"a": a, "b": b}
        if op == "Where":
            feeds = {"a": a, "b": rng.standard_normal(shapes[1]).astype(np.float32)}
        constants = {"c": np.float32(2)} if op == "Where" else {}
        model = model_of(op, feeds, constants)
        (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
        truths = [name for name, array in feeds.items() if array.dtype == bool]
        wide = {n: x.astype(np.int64) if n in truths else x for n, x in feeds.items()}
        check(lowered(numbers_in(model, *truths), wide), [expected])


def test_every_row_is_tested() -> None:
    elsewhere = {"Split", "goldfold.BandAttention", "And", "Or", "Xor", "Not", "Where", "Shape"}
    elsewhere |= {"Range"}  # sizes: known of static functions, and flexible ones are tested whole
    elsewhere |= {"QuantizeLinear", "DequantizeLinear"}  # test_integers.py
    elsewhere |= {"TopK", "Conv"}  # test_rows_of_blocks.py
    assert set(ROWS) == set(CASES) | elsewhere
