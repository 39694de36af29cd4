"""Numpy semantics of MIL's arithmetic: pointwise ops, comparisons, reductions.

Every function takes `Operands` and returns the result in the working type (f32 or f64 for
floating-point values, int32, bool); rounding to a declared fp16 happens outside
(targets/coreml/evaluate.py). Defaults are those of coremltools' op definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from scipy import special


class Operands(Protocol):
    """The parameters of one operation, by MIL's names."""

    working: type
    """np.float32 or np.float64."""

    def __call__(self, name: str, default: Any = None) -> Any:
        """Returns a parameter in the working type; a list of arrays where MIL takes several."""
        ...

    def raw(self, name: str) -> np.ndarray:
        """Returns a parameter as it lies in the file: a table of which rows are picked is not
        widened whole."""
        ...


Numeric = Callable[[Operands], Any]


def _unary(compute: Callable[[Any], Any]) -> Numeric:
    return lambda get: compute(get("x"))


def _binary(compute: Callable[[Any, Any], Any]) -> Numeric:
    return lambda get: compute(get("x"), get("y"))


def real_div(get: Operands) -> np.ndarray:
    x, y = get("x"), get("y")
    if x.dtype.kind == "i":  # as coremltools' own inference: the quotient, truncated
        return (x / y).astype(np.int32)
    return x / y


def cast(get: Operands) -> np.ndarray:
    x, wanted = get("x"), get("dtype")
    if wanted == "bool":
        return x != 0
    if wanted in ("fp16", "fp32", "fp64"):
        return x.astype(get.working)
    return np.trunc(x).astype(wanted) if x.dtype.kind == "f" else x.astype(wanted)


def clip(get: Operands) -> np.ndarray:
    return np.minimum(np.maximum(get("x"), get("alpha")), get("beta"))


def select(get: Operands) -> np.ndarray:
    return np.where(get("cond"), get("a"), get("b"))


def gelu(get: Operands) -> np.ndarray:
    x, mode = get("x"), get("mode", "EXACT")
    if mode == "TANH_APPROXIMATION":
        inner = math.sqrt(2 / math.pi) * (x + x * x * x * get.working(0.044715))
        return x * get.working(0.5) * (1 + np.tanh(inner.astype(get.working)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * special.expit(get.working(1.702) * x)
    return x * get.working(0.5) * (1 + special.erf(x * get.working(math.sqrt(0.5))))


def softmax(get: Operands) -> np.ndarray:
    x, axis = get("x"), int(get("axis", -1))
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def softplus(get: Operands) -> np.ndarray:
    return np.logaddexp(get("x"), get.working(0))


def elu(get: Operands) -> np.ndarray:
    x = get("x")
    return np.where(x > 0, x, get("alpha", get.working(1)) * np.expm1(np.minimum(x, 0)))


def leaky_relu(get: Operands) -> np.ndarray:
    x = get("x")
    return np.where(x >= 0, x, get("alpha", get.working(0.01)) * x)


def _axes(get: Operands) -> tuple[int, ...] | None:
    axes = get("axes")
    return None if axes is None else tuple(int(axis) for axis in np.atleast_1d(axes))


def _reduction(compute: Callable[..., Any]) -> Numeric:
    def run(get: Operands) -> Any:
        keep = bool(get("keep_dims", False))
        return compute(get("x"), axis=_axes(get), keepdims=keep)

    return run


def _l2(x: np.ndarray, **how: Any) -> np.ndarray:
    return np.sqrt((x * x).sum(**how))


def _log_sum_exp(x: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    return np.asarray(special.logsumexp(x, axis=axis, keepdims=keepdims))


def _argument(compute: Callable[..., Any]) -> Numeric:
    def run(get: Operands) -> np.ndarray:
        axis, keep = int(get("axis", -1)), bool(get("keep_dims", False))
        return np.asarray(compute(get("x"), axis=axis, keepdims=keep)).astype(np.int32)

    return run


def cumsum(get: Operands) -> np.ndarray:
    x, axis = get("x"), int(get("axis", 0))
    backwards = bool(get("reverse", False))
    x = np.flip(x, axis) if backwards else x
    total = np.cumsum(x, axis=axis, dtype=x.dtype)
    if get("exclusive", False):
        total = total - x
    return np.flip(total, axis) if backwards else total


def layer_norm(get: Operands) -> np.ndarray:
    x, axes = get("x"), _axes(get)
    mean = x.mean(axis=axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    y = (x - mean) / np.sqrt(variance + get("epsilon", get.working(1e-5)))
    gamma, beta = get("gamma"), get("beta")
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


def l2_norm(get: Operands) -> np.ndarray:
    """Normalises over all axes but the first of the last three; ε is under the root."""
    x = get("x")
    total = (x * x).sum(axis=(-3, -2, -1), keepdims=True)
    return x / np.sqrt(total + get("epsilon", get.working(1e-6)))


def linear(get: Operands) -> np.ndarray:
    y = get("x") @ get("weight").T
    bias = get("bias")
    return y if bias is None else y + bias


def conv(get: Operands) -> np.ndarray:
    """x [B,C,S] with weights [D, C / groups, k], padded with zeros by numbers that are given."""
    x, weight, bias = get("x"), get("weight"), get("bias")
    groups, width = int(get("groups", 1)), weight.shape[-1]
    step, apart = (int(np.ravel(get(name, [1]))[0]) for name in ("strides", "dilations"))
    if x.ndim != 3 or str(get("pad_type", "valid")) != "custom":
        raise NotImplementedError("conv along several axes, or with padding by a word")
    x = np.pad(x, ((0, 0), (0, 0), tuple(int(n) for n in np.ravel(get("pad")))))
    x = x.reshape(x.shape[0], groups, -1, x.shape[-1])
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    count = (x.shape[-1] - apart * (width - 1) - 1) // step + 1
    total = get.working(0)
    for place in range(width):
        taken = x[..., place * apart :: step][..., :count]
        total = total + np.einsum("gdc,bgcs->bgds", weight[..., place], taken)
    y = np.asarray(total).reshape(x.shape[0], -1, count)
    return y if bias is None else y + bias[:, None]


def matmul(get: Operands) -> np.ndarray:
    x, y = get("x"), get("y")
    x = x.swapaxes(-1, -2) if get("transpose_x", False) else x
    y = y.swapaxes(-1, -2) if get("transpose_y", False) else y
    return np.matmul(x, y)


def einsum(get: Operands) -> np.ndarray:
    return np.einsum(get("equation"), *get("values"))


def attention(get: Operands) -> np.ndarray:
    """softmax(q kᵀ / sqrt(D) + mask) v. A boolean mask hides with −∞, so a row that it hides whole
    is NaN, as on a device."""
    q, k, v, mask = (get(name) for name in ("query", "key", "value", "attn_mask"))
    scores = np.matmul(q, k.swapaxes(-1, -2)) / get.working(math.sqrt(q.shape[-1]))
    if mask is not None:
        hidden = get.working(-np.inf)
        scores = scores + (np.where(mask, get.working(0), hidden) if mask.dtype == bool else mask)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.matmul(powers / powers.sum(axis=-1, keepdims=True), v)


NUMERIC: dict[str, Numeric] = {
    "identity": _unary(lambda x: x), "add": _binary(np.add), "sub": _binary(np.subtract),
    "mul": _binary(np.multiply), "real_div": real_div, "floor_div": _binary(np.floor_divide),
    "mod": _binary(np.mod), "pow": _binary(np.power), "maximum": _binary(np.maximum),
    "minimum": _binary(np.minimum), "equal": _binary(np.equal),
    "not_equal": _binary(np.not_equal), "less": _binary(np.less),
    "less_equal": _binary(np.less_equal), "greater": _binary(np.greater),
    "greater_equal": _binary(np.greater_equal), "logical_and": _binary(np.logical_and),
    "logical_or": _binary(np.logical_or), "logical_xor": _binary(np.logical_xor),
    "logical_not": _unary(np.logical_not), "select": select, "cast": cast, "clip": clip,
    "abs": _unary(np.abs), "sign": _unary(np.sign), "sqrt": _unary(np.sqrt),
    "square": _unary(np.square), "exp": _unary(np.exp), "exp2": _unary(np.exp2),
    "sin": _unary(np.sin), "cos": _unary(np.cos), "tan": _unary(np.tan),
    "tanh": _unary(np.tanh), "erf": _unary(special.erf), "floor": _unary(np.floor),
    "ceil": _unary(np.ceil), "round": _unary(np.rint), "sigmoid": _unary(special.expit),
    "silu": _unary(lambda x: x * special.expit(x)), "relu": _unary(lambda x: np.maximum(x, 0)),
    "relu6": _unary(lambda x: np.clip(x, 0, 6)), "softplus": softplus, "elu": elu,
    "softsign": _unary(lambda x: x / (1 + np.abs(x))), "leaky_relu": leaky_relu,
    "rsqrt": lambda get: 1 / np.sqrt(get("x") + get("epsilon", get.working(1e-12))),
    "inverse": lambda get: 1 / (get("x") + get("epsilon", get.working(1e-4))),
    "log": lambda get: np.log(get("x") + get("epsilon", get.working(1e-45))),
    "gelu": gelu, "softmax": softmax, "cumsum": cumsum, "layer_norm": layer_norm,
    "l2_norm": l2_norm, "linear": linear, "conv": conv, "matmul": matmul, "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "reduce_sum": _reduction(np.sum), "reduce_mean": _reduction(np.mean),
    "reduce_max": _reduction(np.max), "reduce_min": _reduction(np.min),
    "reduce_prod": _reduction(np.prod), "reduce_l2_norm": _reduction(_l2),
    "reduce_l1_norm": _reduction(lambda x, **how: np.abs(x).sum(**how)),
    "reduce_sum_square": _reduction(lambda x, **how: (x * x).sum(**how)),
    "reduce_log_sum": _reduction(lambda x, **how: np.log(x.sum(**how))),
    "reduce_log_sum_exp": _reduction(_log_sum_exp),
    "reduce_argmax": _argument(np.argmax), "reduce_argmin": _argument(np.argmin),
}  # fmt: skip
"""MIL op → its arithmetic."""
