"""Rows of the op table: linear maps, norms, rotary embeddings, and attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.derivation import folded
from goldfold.targets.coreml.lower.lowering import Emit, Row
from goldfold.targets.coreml.lower.rows_integers import matrix
from goldfold.targets.coreml.lower.rows_math import kind, number
from goldfold.targets.coreml.lower.rows_tensor import is_open

_TYPES = {"fp16": np.float16, "fp32": np.float32}


def matmul(emit: Emit, node: ir.Node) -> Any:
    """`linear` where the right side is a matrix of weights, with the bias that is added to it."""
    x = emit.var(0)
    weights = None
    if emit.known(0) is None and emit.integers(0) is None and len(x.shape) <= 3:
        weights = matrix(emit, 1, turned=True)
    if weights is None:
        return emit("matmul", x=x, y=emit.var(1))
    return _linear(emit, node, x, weights)


def gemm(emit: Emit, node: ir.Node) -> Any:
    """alpha A B + beta C."""
    a = emit.var(0)
    alpha, beta = emit.attribute("alpha", 1.0), emit.attribute("beta", 1.0)
    turned_a, turned_b = (bool(emit.attribute(name, 0)) for name in ("transA", "transB"))
    shift = emit.known(2)
    simple = alpha == beta == 1.0 and not turned_a
    if simple and (emit.operand(2) is None or (shift is not None and shift.ndim == 1)):
        weights = matrix(emit, 1, turned=not turned_b)
        if weights is not None:
            return _linear(emit, node, a, weights, shift)
    last = alpha == 1.0 and emit.operand(2) is None
    product = emit(
        "matmul", None if last else "product", x=a, y=emit.var(1),
        transpose_x=turned_a, transpose_y=turned_b,
    )  # fmt: skip
    if alpha != 1.0:
        part = None if emit.operand(2) is None else "scaled"
        product = emit("mul", part, x=product, y=number(product, alpha))
    if emit.operand(2) is None:
        return product
    c = emit.var(2)
    if beta != 1.0:
        c = emit("mul", "shift", x=c, y=number(c, beta))
    return emit("add", x=product, y=c)


def conv(emit: Emit, node: ir.Node) -> Any:
    """A convolution along one axis, with constant weights."""
    x, pads = emit.var(0), emit.attribute("pads", [0, 0])
    if emit.known(1) is None or len(x.shape) != 3:
        raise emit.fault("its weights depend on the text, or it has not one axis")
    if str(emit.attribute("auto_pad", "NOTSET")) != "NOTSET":
        raise emit.fault("its padding is not said in numbers")
    bias = {} if emit.operand(2) is None else {"bias": emit.var(2)}
    return emit(
        "conv", x=x, weight=emit.var(1), pad_type="custom", pad=[int(n) for n in pads],
        strides=[int(n) for n in emit.attribute("strides", [1])],
        dilations=[int(n) for n in emit.attribute("dilations", [1])],
        groups=int(emit.attribute("group", 1)), **bias,
    )  # fmt: skip


def _linear(
    emit: Emit, node: ir.Node, x: Any, weights: Any, shift: np.ndarray | None = None
) -> Any:
    """x Wᵀ + b for weights [N, K]. If the Add of a bias is the product's only reader, it is written
    with it."""
    width = int(weights.shape[0])
    added = None if shift is not None else _bias(emit, node, width)
    if added is not None:
        node, bias = added[0], emit.of(added[1])
    elif shift is not None:
        bias = emit.constant(shift, "bias")
    else:
        zeros = np.zeros(width, dtype=_TYPES[kind(weights)])
        bias = emit.function.const(zeros, f"zeros_{width}")
    writer = Emit(emit.function, node)
    made = writer("linear", x=x, weight=weights, bias=bias)
    if added is None:
        return made
    emit.function.vars[node.outputs[0]] = made
    emit.function.done.add(node)
    return None


def _bias(emit: Emit, node: ir.Node, width: int) -> tuple[ir.Node, ir.Value] | None:
    """Returns the Add that is the only reader of `node`'s result, and the known vector of `width`
    that it adds."""
    product = node.outputs[0]
    readers = list(product.uses())
    if len(readers) != 1 or product.is_graph_output():
        return None
    adder = readers[0].node
    if adder.op_type != "Add" or adder.domain:
        return None
    other = next((value for value in adder.inputs if value is not product), None)
    array = emit.function.array(other)
    if other is None or array is None or array.shape != (width,):
        return None
    return adder, other


def rms_norm(emit: Emit, node: ir.Node) -> Any:
    """x / sqrt(mean(x²) + ε) · g, always in fp32, whatever the type of x: squares leave fp16 at
    256."""
    x, gain = emit.var(0), emit.var(1)
    half = kind(x) == "fp16"
    rank = len(x.shape)
    axes = list(range(emit.attribute("axis", -1) % rank, rank))
    wide = emit("cast", "wide", x=x, dtype="fp32") if half else x
    squares = emit("mul", "squares", x=wide, y=wide)
    mean = emit("reduce_mean", "mean", x=squares, axes=axes, keep_dims=True)
    epsilon = np.float32(emit.attribute("epsilon", 1e-5))
    factor = emit("rsqrt", "factor", x=mean, epsilon=epsilon)
    known = emit.known(1)
    plain = known is not None and bool((known == 1).all())
    normed = emit("mul", None if plain and not half else "normed", x=wide, y=factor)
    if half:
        normed = emit("cast", None if plain else "half", x=normed, dtype="fp16")
    return normed if plain else emit("mul", x=normed, y=gain)


def layer_norm(emit: Emit, node: ir.Node) -> Any:
    """Mean, variance and ε are in fp32, as ONNX's stash_type says."""
    x = emit.var(0)
    if any(value.uses() for value in node.outputs[1:]):
        raise emit.fault("something reads its mean or its deviation")
    half = kind(x) == "fp16"
    rank = len(x.shape)
    gain, shift = emit.known(1), emit.known(2)
    if gain is None or (emit.operand(2) is not None and shift is None):
        raise emit.fault("its gain or shift is not constant")
    made = emit(
        "layer_norm",
        "wide" if half else None,
        x=emit("cast", "widened", x=x, dtype="fp32") if half else x,
        axes=list(range(emit.attribute("axis", -1) % rank, rank)),
        gamma=emit.constant(gain.astype(np.float32), "gain"),
        beta=None if shift is None else emit.constant(shift.astype(np.float32), "shift"),
        epsilon=np.float32(emit.attribute("epsilon", 1e-5)),
    )
    return emit("cast", x=made, dtype="fp16") if half else made


def rotary(emit: Emit, node: ir.Node) -> Any:
    """[a, b] → [a cos − b sin, b cos + a sin] for the two halves of the last axis, heads in axis
    1."""
    x = emit.var(0)
    if len(x.shape) != 4 or emit.attribute("interleaved", 0):
        raise emit.fault("only heads in axis 1, and halves that are not interleaved, are known")
    width = int(x.shape[3])
    turned = int(emit.attribute("rotary_embedding_dim", 0)) or width
    cos, sin = (_table(emit, place, kind(x)) for place in (1, 2))
    sizes = [turned // 2, turned // 2] + [width - turned] * (turned < width)
    a, b, *rest = emit("split", "halves", x=x, split_sizes=sizes, axis=3)
    first = emit(
        "sub", "first",
        x=emit("mul", "a_cos", x=a, y=cos), y=emit("mul", "b_sin", x=b, y=sin),
    )  # fmt: skip
    second = emit(
        "add", "second",
        x=emit("mul", "b_cos", x=b, y=cos), y=emit("mul", "a_sin", x=a, y=sin),
    )  # fmt: skip
    return emit("concat", values=[first, second, *rest], axis=3)


def _table(emit: Emit, place: int, wanted: str) -> Any:
    """Returns cos or sin as [1 or batch, 1, tokens, half]: a constant where the positions are
    known."""
    table, positions = emit.known(place), emit.known(3)
    if emit.operand(3) is None:
        if table is None:
            raise emit.fault("its tables are computed from the text")
        return emit.constant(table[:, None].astype(_TYPES[wanted]), f"table{place}")
    if table is None:
        raise emit.fault("its tables are computed from the text")
    if positions is not None:
        rows = table[positions]
        if len(rows) > 1 and (positions == positions[0]).all():
            rows = rows[:1]
        return emit.constant(rows[:, None].astype(_TYPES[wanted]), f"table{place}")
    source, where = emit.operand(place), emit.operand(3)

    def gathered() -> Any:
        held = emit.constant(table.astype(_TYPES[wanted]), f"table{place}")
        rows = emit("gather", f"rows{place}", x=held, indices=emit.var(3), axis=0)
        return emit("expand_dims", f"heads{place}", x=rows, axes=[1])

    return emit.shared(("rotary", source, where, wanted), gathered)


def band_attention(emit: Emit, node: ir.Node) -> Any:
    """softmax(cap(s q kᵀ) + b + m) v with finite masks.

    Query heads that share a key head lie one behind the other, so H heads of S queries are G heads
    of (H/G) S queries: only the shape changes, and neither keys nor values are repeated.
    """
    q, k, v = (emit.var(place) for place in range(3))
    band = dialect.Band.of(node)
    heads, groups, width = int(q.shape[1]), int(k.shape[1]), int(q.shape[3])
    mask, bias = _mask(emit, q, band), dialect.bias_of(node)
    if bias is not None:  # one sum for all layers
        whole = mask
        mask = emit.shared(
            ("biased", mask, bias), lambda: emit("add", "biased", x=emit.var(4), y=whole)
        )
    q = emit("mul", "scaled", x=q, y=number(q, band.scale))
    tokens = q.shape[2]
    if groups == heads:
        weights = _weights(emit, emit("matmul", "scores", x=q, y=k, transpose_y=True), mask, band)
        return emit("matmul", x=weights, y=v)
    if is_open(tokens):
        if bias is not None:
            raise emit.fault("its heads share keys and have a bias, at an open length")
        return _open_groups(emit, (q, k, v), mask, band)
    tokens = int(tokens)
    many = tokens * heads // groups
    q = emit("reshape", "grouped", x=q, shape=_sizes(1, groups, many, width))
    scores = emit("matmul", "scores", x=q, y=k, transpose_y=True)
    scores = emit("reshape", "by_head", x=scores, shape=_sizes(1, heads, tokens, tokens))
    weights = _weights(emit, scores, mask, band)
    weights = emit("reshape", "by_group", x=weights, shape=_sizes(1, groups, many, tokens))
    mixed = emit("matmul", "mixed", x=weights, y=v)
    return emit("reshape", x=mixed, shape=_sizes(1, heads, tokens, int(v.shape[3])))


def _weights(emit: Emit, scores: Any, mask: Any, band: dialect.Band) -> Any:
    """softmax(cap(scores) + mask)."""
    if band.softcap:
        cap = number(scores, band.softcap)
        ratio = emit("real_div", "ratio", x=scores, y=cap)
        scores = emit("mul", "capped", x=emit("tanh", "bent", x=ratio), y=cap)
    masked = emit("add", "masked", x=scores, y=mask)
    return emit("softmax", "weights", x=masked, axis=-1)


def _open_groups(emit: Emit, qkv: tuple[Any, Any, Any], mask: Any, band: dialect.Band) -> Any:
    """Makes groups an axis of their own, along which keys and values broadcast: MIL cannot find the
    second of two open sizes in a shape."""
    q, k, v = qkv
    heads, groups, width = int(q.shape[1]), int(k.shape[1]), int(q.shape[3])
    q = emit("reshape", "grouped", x=q, shape=_sizes(1, groups, heads // groups, -1, width))
    k = emit("expand_dims", "keys", x=k, axes=[2])
    v = emit("expand_dims", "values", x=v, axes=[2])
    spread = emit.shared(
        ("spread", mask), lambda: emit("expand_dims", "mask_by_group", x=mask, axes=[1])
    )
    scores = emit("matmul", "scores", x=q, y=k, transpose_y=True)
    mixed = emit("matmul", "mixed", x=_weights(emit, scores, spread, band), y=v)
    return emit("reshape", x=mixed, shape=_sizes(1, heads, -1, int(v.shape[4])))


def _sizes(*sizes: int) -> np.ndarray:
    """Returns a shape for MIL: −1 is the remaining size."""
    return np.array(sizes, dtype=np.int32)


def _mask(emit: Emit, q: Any, band: dialect.Band) -> Any:
    """Returns [1, 1, 1 or S, S] of the scores' type: 0 where seen, HIDDEN where not. All layers
    with the same band and padding share one."""
    padding, kinds = emit.operand(3), kind(q)

    def padded() -> Any:
        real = emit("expand_dims", "real", x=emit.var(3), axes=[1, 2])
        return _hiding(emit, q, real, "padding")

    mask = emit.shared(("padding", padding, kinds), padded)
    if not band.window and not band.causal:
        return mask

    def banded() -> Any:
        # The lower of the two, not their sum, which would leave fp16.
        return emit("minimum", "mask", x=mask, y=_band(emit, q, band))

    return emit.shared(("mask", padding, kinds, band.window, band.causal), banded)


def _hiding(emit: Emit, like: Any, seen: Any, part: str) -> Any:
    """Returns (1 − seen) · HIDDEN, in the type of `like`."""
    hidden = emit("cast", f"{part}.hidden", x=emit("logical_not", f"{part}.not", x=seen),
                  dtype=kind(like))  # fmt: skip
    return emit("mul", part, x=hidden, y=number(like, dialect.HIDDEN))


def _band(emit: Emit, q: Any, band: dialect.Band) -> Any:
    """Returns 0 where |i − j| < window, and j ≤ i if causal; HIDDEN elsewhere: a constant of the
    bucket."""
    if is_open(q.shape[2]):
        return _open_band(emit, q, band)
    position = np.arange(int(q.shape[2]))
    ahead = position[:, None] - position[None, :]
    seen = np.abs(ahead) < band.window if band.window else np.ones_like(ahead, dtype=bool)
    if band.causal:
        seen &= ahead >= 0
    mask = np.where(seen, 0, dialect.HIDDEN).astype(_TYPES[kind(q)])[None, None]
    return emit.constant(folded(mask), "band")


def _open_band(emit: Emit, q: Any, band: dialect.Band) -> Any:
    """Returns the band of `_band`, computed from the actual length."""
    sizes = emit("shape", "band.sizes", x=q)
    count = emit("slice_by_index", "band.count", x=sizes, begin=[2], end=[3], squeeze_mask=[True])
    zero, one = np.int32(0), np.int32(1)
    position = emit("range_1d", "band.position", start=zero, end=count, step=one)
    i = emit("expand_dims", "band.i", x=position, axes=[1])
    j = emit("expand_dims", "band.j", x=position, axes=[0])
    ahead = emit("sub", "band.ahead", x=i, y=j)
    parts = []
    if band.window:
        distance = emit("abs", "band.distance", x=ahead)
        parts.append(emit("less", "band.near", x=distance, y=np.int32(band.window)))
    if band.causal:
        parts.append(emit("greater_equal", "band.past", x=ahead, y=zero))
    seen = parts[0] if len(parts) == 1 else emit("logical_and", "band.seen", x=parts[0], y=parts[1])
    return emit("expand_dims", "band.ranked", x=_hiding(emit, q, seen, "band"), axes=[0, 1])


ROWS: dict[str, Row] = {
    "Conv": conv,
    "MatMul": matmul, "Gemm": gemm, "RMSNormalization": rms_norm, "LayerNormalization": layer_norm,
    "RotaryEmbedding": rotary, "goldfold.BandAttention": band_attention,
}  # fmt: skip
"""ONNX op → its row."""
