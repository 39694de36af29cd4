"""Numpy semantics of MIL's ops that move, select and measure, and of quantization and
dequantization."""

from __future__ import annotations

from typing import Any

import numpy as np

from goldfold.targets.coreml.reference_ops import Numeric, Operands


def _ints(array: Any) -> list[int]:
    return [int(number) for number in np.atleast_1d(array)]


def reshape(get: Operands) -> np.ndarray:
    """−1 is the remaining size; 0 is the size that x has there."""
    x, sizes = get("x"), _ints(get("shape"))
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


def transpose(get: Operands) -> np.ndarray:
    return get("x").transpose(_ints(get("perm")))


def expand_dims(get: Operands) -> np.ndarray:
    return np.expand_dims(get("x"), tuple(_ints(get("axes"))))


def squeeze(get: Operands) -> np.ndarray:
    axes = get("axes")
    return np.squeeze(get("x"), None if axes is None else tuple(_ints(axes)))


def slice_by_index(get: Operands) -> np.ndarray:
    """Masks leave out a begin or an end, or remove an axis."""
    x = get("x")
    rank = x.ndim
    begins, ends = _ints(get("begin")), _ints(get("end"))
    strides = _ints(get("stride", [1] * rank))
    masks = (get(f"{name}_mask", [False] * rank) for name in ("begin", "end", "squeeze"))
    to_begin, to_end, away = ([bool(b) for b in np.atleast_1d(mask)] for mask in masks)
    index: list[Any] = []
    for axis in range(rank):
        if away[axis]:
            index.append(begins[axis])
        else:
            first = None if to_begin[axis] else begins[axis]
            index.append(slice(first, None if to_end[axis] else ends[axis], strides[axis]))
    return x[tuple(index)]


def slice_by_size(get: Operands) -> np.ndarray:
    x, begins, sizes = get("x"), _ints(get("begin")), _ints(get("size"))
    plan = zip(begins, sizes, strict=True)
    return x[tuple(slice(b, None if size == -1 else b + size) for b, size in plan)]


def split(get: Operands) -> list[np.ndarray]:
    x, axis, sizes = get("x"), int(get("axis")), get("split_sizes")
    if sizes is None:
        return np.split(x, int(get("num_splits")), axis)
    return np.split(x, np.cumsum(_ints(sizes))[:-1], axis)


def _several(get: Operands) -> list[np.ndarray]:
    values = get("values")
    return values if isinstance(values, list) else [values]


def concat(get: Operands) -> np.ndarray:
    values, axis = _several(get), int(get("axis"))
    if not get("interleave", False):
        return np.concatenate(values, axis)
    together = np.stack(values, axis % values[0].ndim + 1)
    sizes = list(values[0].shape)
    sizes[axis] *= len(values)
    return together.reshape(sizes)


def gather(get: Operands) -> np.ndarray:
    """Rows of `x` along `axis`; the first `batch_dims` axes of both go together."""
    x, indices = get.raw("x"), get("indices")
    axis, batch = int(get("axis", 0)) % x.ndim, int(get("batch_dims", 0))
    if not batch:
        return np.take(x, indices, axis)
    outer = x.shape[:batch]
    picked = [np.take(x[place], indices[place], axis - batch) for place in np.ndindex(*outer)]
    return np.stack(picked).reshape(*outer, *picked[0].shape)


def gather_along_axis(get: Operands) -> np.ndarray:
    return np.take_along_axis(get.raw("x"), get("indices"), int(get("axis", 0)))


def scatter_along_axis(get: Operands) -> np.ndarray:
    """`data` with the updates at the indices along one axis. Only `update` is known, whose result
    depends on an order where one place has several updates; the last one counts."""
    mode = str(get("mode", "add"))
    if mode != "update":
        raise NotImplementedError(f"scatter_along_axis by {mode}")
    made = np.array(get.raw("data"))
    np.put_along_axis(made, get("indices"), get.raw("updates"), int(get("axis", 0)))
    return made


def gather_nd(get: Operands) -> np.ndarray:
    """The last axis of the indices names a place in `x`, behind `batch_dims` common axes."""
    x, indices, batch = get.raw("x"), get("indices"), int(get("batch_dims", 0))
    if not batch:
        return x[tuple(np.moveaxis(indices, -1, 0))]
    outer = x.shape[:batch]
    picked = [x[place][tuple(np.moveaxis(indices[place], -1, 0))] for place in np.ndindex(*outer)]
    return np.stack(picked).reshape(*outer, *picked[0].shape)


def range_1d(get: Operands) -> np.ndarray:
    start, end, step = get("start"), get("end"), get("step")
    return np.arange(start, end, step, dtype=np.asarray(start).dtype)


def tile(get: Operands) -> np.ndarray:
    return np.tile(get("x"), _ints(get("reps")))


def fill(get: Operands) -> np.ndarray:
    value = np.asarray(get("value", get.working(0)))
    return np.full(_ints(get("shape")), value, dtype=value.dtype)


def fill_like(get: Operands) -> np.ndarray:
    value = np.asarray(get("value", get.working(0)))
    return np.full(get("ref_tensor").shape, value, dtype=value.dtype)


def shape(get: Operands) -> np.ndarray:
    return np.array(get.raw("x").shape, dtype=np.int32)


def stack(get: Operands) -> np.ndarray:
    return np.stack(_several(get), int(get("axis")))


def band_part(get: Operands) -> np.ndarray:
    x, lower, upper = get("x"), int(get("lower", -1)), int(get("upper", -1))
    ahead = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])[None, :]
    kept = ((lower < 0) | (ahead <= lower)) & ((upper < 0) | (-ahead <= upper))
    return np.where(kept, x, np.zeros((), x.dtype))


def pad(get: Operands) -> np.ndarray:
    x, widths = get("x"), np.array(_ints(get("pad"))).reshape(-1, 2)
    plan = [(0, 0)] * (x.ndim - len(widths)) + [tuple(width) for width in widths]
    mode = get("mode", "constant")
    if mode == "constant":
        return np.pad(x, plan, constant_values=get("constant_val", get.working(0)))
    return np.pad(x, plan, mode="reflect" if mode == "reflect" else "edge")


def one_hot(get: Operands) -> np.ndarray:
    indices, axis = get("indices"), int(get("axis", -1))
    on, off = get("on_value", np.int32(1)), get("off_value", np.int32(0))
    hot = indices[..., None] == np.arange(int(get("one_hot_vector_size")))
    return np.moveaxis(np.where(hot, on, off), -1, axis)


def topk(get: Operands) -> tuple[np.ndarray, np.ndarray]:
    x, k, axis = get("x"), int(get("k", 1)), int(get("axis", -1))
    order = np.argsort(x if get("ascending", False) else -x, axis=axis, kind="stable")
    first = np.take(order, np.arange(k), axis)
    return np.take_along_axis(x, first, axis), first.astype(np.int32)


def argsort(get: Operands) -> np.ndarray:
    x = get("x")
    key = x if get("ascending", False) else -x
    return np.argsort(key, axis=int(get("axis", -1)), kind="stable").astype(np.int32)


def reverse(get: Operands) -> np.ndarray:
    axes = get("axes")
    return np.flip(get("x"), None if axes is None else tuple(_ints(axes)))


def affine_dequantize(get: Operands) -> np.ndarray:
    """scale · (data − zero_point) along one axis."""
    data, axis = get("quantized_data"), int(get("axis"))
    scale, zero = get("scale"), get("zero_point")
    sizes = [-1 if place == axis else 1 for place in range(data.ndim)]
    scale, zero = (np.reshape(v, sizes) if np.ndim(v) else v for v in (scale, zero))
    return scale * (data.astype(get.working) - zero.astype(get.working))


def blockwise_shift_scale(get: Operands) -> np.ndarray:
    """scale · (data − offset), each number of `scale` for a block of `data`."""
    data, scale, offset = get("data"), get("scale"), get("offset")

    def spread(small: np.ndarray) -> np.ndarray:
        for axis, (whole, part) in enumerate(zip(data.shape, small.shape, strict=True)):
            small = np.repeat(small, whole // part, axis)
        return small

    shifted = data.astype(get.working)
    if offset is not None:
        shifted = shifted - spread(offset).astype(get.working)
    return shifted * spread(scale)


def _along(get: Operands, small: Any, rank: int) -> Any:
    """Returns a vector laid along `axis` of a value of `rank` axes; a single number as it is."""
    if np.ndim(small) == 0:
        return small
    axis = int(get("axis")) % rank
    return np.reshape(small, [-1 if place == axis else 1 for place in range(rank)])


def quantize(get: Operands) -> np.ndarray:
    """clip(round(x / scale) + zero_point), halves to even."""
    x, zero, word = get("input"), get("zero_point"), str(get("output_dtype"))
    numbers = np.rint(x / _along(get, get("scale"), x.ndim))
    if zero is not None:
        numbers = numbers + _along(get, zero, x.ndim).astype(x.dtype)
    held = np.iinfo(word)
    return np.clip(numbers, held.min, held.max).astype(word)


def dequantize(get: Operands) -> np.ndarray:
    """scale · (x − zero_point)."""
    x, zero = get("input").astype(get.working), get("zero_point")
    if zero is not None:
        x = x - _along(get, zero, x.ndim).astype(get.working)
    return x * _along(get, get("scale"), x.ndim)


MOVING: dict[str, Numeric] = {
    "reshape": reshape, "transpose": transpose, "expand_dims": expand_dims, "squeeze": squeeze,
    "slice_by_index": slice_by_index, "slice_by_size": slice_by_size, "split": split,
    "concat": concat, "gather": gather, "gather_along_axis": gather_along_axis,
    "scatter_along_axis": scatter_along_axis,
    "gather_nd": gather_nd, "range_1d": range_1d, "tile": tile, "fill": fill,
    "fill_like": fill_like, "shape": shape, "stack": stack, "band_part": band_part, "pad": pad,
    "one_hot": one_hot, "topk": topk, "argsort": argsort, "reverse": reverse,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "quantize": quantize, "dequantize": dequantize,
}  # fmt: skip
"""MIL op → its semantics."""
