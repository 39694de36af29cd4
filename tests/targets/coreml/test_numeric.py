"""The evaluator's ops against what coremltools itself infers for them on constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from goldfold.targets.coreml.evaluate import TABLE, _half
from tests.targets.coreml.mil import Given, inferred

RNG = np.random.default_rng(11)


def floats(*shape: int, low: float = -4, high: float = 4) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def ints(*shape: int, low: int = -4, high: int = 4) -> np.ndarray:
    return RNG.integers(low, high + 1, shape).astype(np.int32)


def bools(*shape: int) -> np.ndarray:
    return RNG.integers(0, 2, shape).astype(bool)


def cases() -> list[tuple[str, dict[str, Any]]]:
    """(op, parameters) with numbers drawn anew at every call."""
    pointwise = ("abs sign sqrt square exp exp2 sin cos tan tanh erf floor ceil round sigmoid silu "
                 "relu relu6 softplus softsign rsqrt inverse log identity")  # fmt: skip
    made: list[tuple[str, dict[str, Any]]] = [
        (op, {"x": floats(2, 3, low=0.1, high=2)}) for op in pointwise.split()
    ]
    made += [(op, {"x": floats(2, 3)}) for op in ("abs", "sign", "erf", "floor", "ceil", "round")]
    two = ("add sub mul real_div floor_div mod maximum minimum equal not_equal less less_equal "
           "greater greater_equal")  # fmt: skip
    for op in two.split():
        made.append((op, {"x": floats(2, 3), "y": floats(3, low=0.5)}))
        made.append((op, {"x": ints(2, 3), "y": ints(2, 3, low=1, high=3)}))
    made.append(("pow", {"x": floats(2, 3, low=0.1), "y": floats(2, 3)}))
    made += [(op, {"x": bools(2, 3), "y": bools(2, 3)})
             for op in ("logical_and", "logical_or", "logical_xor")]  # fmt: skip
    made.append(("logical_not", {"x": bools(2, 3)}))
    made.append(("select", {"cond": bools(2, 3), "a": floats(2, 3), "b": floats(2, 3)}))
    made += [("cast", {"x": floats(2, 3), "dtype": d}) for d in ("int32", "bool", "fp32")]
    made.append(("clip", {"x": floats(2, 3), "alpha": np.float32(-1), "beta": np.float32(2)}))
    made += [("gelu", {"x": floats(2, 3), "mode": m})
             for m in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")]  # fmt: skip
    made.append(("leaky_relu", {"x": floats(2, 3), "alpha": np.float32(0.3)}))
    made.append(("elu", {"x": floats(2, 3), "alpha": np.float32(0.3)}))
    made += [("softmax", {"x": floats(2, 3, 4), "axis": axis}) for axis in (-1, 0, 1)]
    for op in ("sum", "mean", "max", "min", "prod", "l1_norm", "l2_norm", "sum_square",
               "log_sum_exp"):  # fmt: skip
        for keep in (True, False):
            how = {"axes": np.array([0, 2], np.int32), "keep_dims": keep}
            made.append((f"reduce_{op}", {"x": floats(2, 3, 4), **how}))
    made.append(("reduce_log_sum", {"x": floats(2, 3, low=0.1), "axes": np.array([1], np.int32)}))
    made += [(op, {"x": floats(2, 3), "axis": axis, "keep_dims": keep})
             for op in ("reduce_argmax", "reduce_argmin")
             for axis in (0, 1) for keep in (True, False)]  # fmt: skip
    # coremltools' inference of an exclusive sum raises; test_rows.py has it against ONNX Runtime.
    made += [("cumsum", {"x": floats(2, 3), "axis": 1, "reverse": r}) for r in (True, False)]
    made.append(("layer_norm", {"x": floats(2, 3, 4), "axes": np.array([2], np.int32),
                                "gamma": floats(4), "beta": floats(4),
                                "epsilon": np.float32(0.1)}))  # fmt: skip
    made.append(("l2_norm", {"x": floats(1, 3, 4, 5), "epsilon": np.float32(0.1)}))
    made.append(("conv", {"x": floats(2, 4, 7), "weight": floats(6, 2, 3), "groups": 2,
                          "pad_type": "custom", "pad": np.array([2, 1], np.int32),
                          "bias": floats(6)}))  # fmt: skip
    made.append(("linear", {"x": floats(2, 3), "weight": floats(4, 3), "bias": floats(4)}))
    for x, y in (((2, 3), (3, 4)), ((2, 2, 3), (2, 3, 4)), ((1, 2, 3), (5, 3, 4))):
        made.append(("matmul", {"x": floats(*x), "y": floats(*y)}))
        turned = (*y[:-2], y[-1], y[-2])
        made.append(("matmul", {"x": floats(*x), "y": floats(*turned), "transpose_y": True}))
    # moving and selecting
    made += [("reshape", {"x": floats(2, 3, 4), "shape": np.array(s, np.int32)})
             for s in ([6, 4], [-1, 2])]  # fmt: skip
    made.append(("transpose", {"x": floats(2, 3, 4), "perm": np.array([2, 0, 1], np.int32)}))
    made.append(("expand_dims", {"x": floats(2, 3), "axes": np.array([0, 2], np.int32)}))
    made.append(("squeeze", {"x": floats(1, 2, 1), "axes": np.array([0], np.int32)}))
    made.append(("slice_by_index", {"x": floats(4, 5), "begin": np.array([1, 0], np.int32),
                                    "end": np.array([0, 4], np.int32),
                                    "stride": np.array([1, 2], np.int32),
                                    "begin_mask": [False, True], "end_mask": [True, False],
                                    "squeeze_mask": [False, False]}))  # fmt: skip
    made.append(("slice_by_index", {"x": floats(4, 5), "begin": np.array([1, 2], np.int32),
                                    "end": np.array([2, 4], np.int32),
                                    "squeeze_mask": [True, False]}))  # fmt: skip
    made.append(("slice_by_size", {"x": floats(4, 5), "begin": np.array([1, 0], np.int32),
                                   "size": np.array([2, -1], np.int32)}))  # fmt: skip
    made.append(("split", {"x": floats(2, 6), "num_splits": 3, "axis": 1}))
    made.append(("split", {"x": floats(2, 6), "split_sizes": np.array([1, 2, 3], np.int32),
                           "axis": 1}))  # fmt: skip
    made += [("concat", {"values": [floats(2, 3), floats(2, 3)], "axis": axis}) for axis in (0, 1)]
    made.append(("stack", {"values": [floats(2, 3), floats(2, 3)], "axis": 1}))
    made += [("gather", {"x": floats(4, 3, 2), "indices": ints(2, 2, low=0, high=1), "axis": axis})
             for axis in (0, 1, 2)]  # fmt: skip
    made.append(("gather", {"x": floats(2, 3, 2), "indices": ints(2, 2, low=0, high=2), "axis": 1,
                            "batch_dims": 1}))  # fmt: skip
    made.append(
        ("gather_along_axis", {"x": floats(4, 3), "indices": ints(2, 3, low=-4, high=3), "axis": 0})
    )
    made.append(("scatter_along_axis", {"data": floats(3, 4), "indices": ints(3, 2, low=0, high=3),
                                        "updates": np.zeros((3, 2), np.float32), "axis": 1,
                                        "mode": "update"}))  # fmt: skip
    made.append(("gather_nd", {"x": floats(4, 3), "indices": ints(5, 2, low=0, high=2)}))
    made.append(("range_1d", {"start": np.int32(1), "end": np.int32(9), "step": np.int32(3)}))
    made.append(("tile", {"x": floats(2, 3), "reps": np.array([2, 3], np.int32)}))
    made.append(("fill", {"shape": np.array([2, 3], np.int32), "value": 2.0}))
    made.append(("shape", {"x": floats(2, 3)}))
    made += [("band_part", {"x": floats(4, 4), "lower": lo, "upper": up})
             for lo, up in ((1, 1), (-1, 0), (0, 2))]  # fmt: skip
    made += [("pad", {"x": floats(4, 5), "pad": np.array([1, 2, 2, 1], np.int32), "mode": m})
             for m in ("constant", "reflect", "replicate")]  # fmt: skip
    made.append(("one_hot", {"indices": ints(3, low=0, high=3), "one_hot_vector_size": 4}))
    made += [("topk", {"x": floats(2, 5), "k": 3, "axis": -1, "ascending": a})
             for a in (True, False)]  # fmt: skip
    made += [("argsort", {"x": floats(2, 5), "axis": -1, "ascending": a}) for a in (True, False)]
    made.append(("reverse", {"x": floats(2, 3), "axes": np.array([1], np.int32)}))
    return made + quantized()


def quantized() -> list[tuple[str, dict[str, Any]]]:
    """Integers made of values, and values of integers: one scale, several, blocks of them."""
    made: list[tuple[str, dict[str, Any]]] = []
    halves = np.arange(-8, 9, dtype=np.float32) / 2  # ties, at a scale of 1
    for word, low in (("int8", -128), ("uint8", 0)):
        zero = np.dtype(word).type(low + 100)
        bytes_ = RNG.integers(low, low + 256, (4, 6)).astype(word)
        zeros = RNG.integers(low, low + 256, 6).astype(word)
        how = {"output_dtype": word}
        made.append(("quantize", {"input": halves, "scale": np.float32(1), **how}))
        values = floats(4, 6, low=-99, high=99)  # many beyond what 8 bits hold
        scale = floats(6, low=0.1, high=0.5)
        made.append(("quantize", {"input": values, "scale": np.float32(0.3), "zero_point": zero,
                                  **how}))  # fmt: skip
        each = {"scale": scale, "zero_point": zeros, "axis": 1}
        made.append(("quantize", {"input": values, **each, **how}))
        made.append(("dequantize", {"input": bytes_, "scale": np.float32(0.3), "zero_point": zero}))
        made.append(("dequantize", {"input": bytes_, **each}))
        made.append(("constexpr_affine_dequantize", {"quantized_data": bytes_, **each}))
        blocks = {"data": bytes_, "scale": floats(4, 2, low=0.1)}
        made.append(("constexpr_blockwise_shift_scale", blocks))
        offset = RNG.integers(low, low + 100, (4, 2)).astype(word)
        made.append(("constexpr_blockwise_shift_scale", {**blocks, "offset": offset}))
    return made


def test_agrees_with_coremltools_own_inference() -> None:
    seen: set[str] = set()
    for _ in range(3):
        for op, parameters in cases():
            wanted = inferred(op, parameters)
            if any(value is None for value in wanted):
                continue
            made = TABLE[op](Given(parameters))
            several = made if isinstance(made, (list, tuple)) else [made]
            for ours, theirs in zip(several, wanted, strict=True):
                ours, theirs = np.asarray(ours), np.asarray(theirs)
                assert ours.shape == theirs.shape, op
                if theirs.dtype.kind == "f":
                    # Both in f32, summed in another order: 24 terms of size up to 4² at most.
                    size = max(16.0, float(np.abs(theirs).max()))
                    bound = 24 * 2.0**-23 * size
                    np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=op)
                else:
                    np.testing.assert_array_equal(ours, theirs, err_msg=op)
            seen.add(op)
    # coremltools infers nothing for these four; conv is compared with ONNX Runtime.
    assert {op for op, _ in cases()} - seen == {"conv", "gather_nd", "one_hot", "silu"}


def test_what_coremltools_does_not_infer_is_as_documented() -> None:
    indices = np.array([0, 2], np.int32)
    made = TABLE["one_hot"](Given({"indices": indices, "one_hot_vector_size": 3}))
    np.testing.assert_array_equal(made, [[1, 0, 0], [0, 0, 1]])
    x = np.array([-1.0, 0.0, 2.0], np.float32)
    # x / (1 + e^-x); two roundings of f32 and an exponential's.
    np.testing.assert_allclose(TABLE["silu"](Given({"x": x})), x / (1 + np.exp(-x)), rtol=1e-6)


def test_every_op_has_a_case_or_a_reason() -> None:
    from_torch = {"einsum", "scaled_dot_product_attention", "fill_like"}
    assert set(TABLE) - {op for op, _ in cases()} == from_torch


def test_interleaved_concat_is_as_documented() -> None:
    """coremltools' inference joins without interleaving; its documentation gives this example."""
    values = [np.array([[1, 2], [3, 4]]), np.array([[5, 6], [7, 8]])]
    made = TABLE["concat"](Given({"values": values, "axis": 0, "interleave": True}))
    np.testing.assert_array_equal(made, [[1, 2], [5, 6], [3, 4], [7, 8]])


def test_rounding_to_fp16_is_numpys() -> None:
    """All of fp16 and the middles between neighbours, where ties go to even."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    middles = (finite[1:] + finite[:-1]) / 2
    above = np.nextafter(middles, np.float32(np.inf))
    special = np.array([np.inf, -np.inf, np.nan, 65519.9, 65520, 7e4, 2.0**-26], np.float32)
    for numbers in (finite, middles, above, special):
        with np.errstate(over="ignore"):
            wanted = numbers.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(_half(numbers, np.float32), wanted)


def test_a_boolean_mask_that_hides_a_whole_row_is_nan() -> None:
    q = floats(1, 1, 2, 3)
    mask = np.array([[True, False], [False, False]])[None, None]
    parameters = {"query": q, "key": q, "value": q, "attn_mask": mask}
    with np.errstate(all="ignore"):
        made = TABLE["scaled_dot_product_attention"](Given(parameters))
    assert np.isfinite(made[0, 0, 0]).all()
    assert np.isnan(made[0, 0, 1]).all()
