"""Rows of the op table: integers, quantization and dequantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.targets.coreml.lower.fold import fold
from goldfold.targets.coreml.lower.integers import Integers, opened
from goldfold.targets.coreml.lower.lowering import Emit, Row

_STORED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
_BYTES = {ir.DataType.INT8: "int8", ir.DataType.UINT8: "uint8"}


def matrix(emit: Emit, index: int, turned: bool) -> Any | None:
    """Returns operand `index`, a constant matrix, or its transpose, as a MIL var; None if it is no
    such matrix."""
    value, held = emit.operand(index), emit.integers(index)
    if value is None:
        return None
    if held is not None:
        return None if held.numbers.ndim != 2 else opened(emit, held.turned() if turned else held)
    array = emit.known(index)
    if array is None or array.ndim != 2:
        return None
    name = f"{value.name} transposed" if turned else value.name
    array = array.T if turned else array
    return emit.constant(array, "weight", name if value.const_value is not None else None)


def dequantize(emit: Emit, node: ir.Node) -> Any:
    """Constants stay integers in the file; values take MIL's `dequantize`."""
    scale, zero = _parameters(emit)
    numbers = emit.known(0)
    if numbers is None:
        x = emit.var(0)
        return emit("dequantize", input=x, **_given(emit, len(x.shape), scale, zero))
    value, result = node.inputs[0], node.outputs[0]
    assert value is not None
    if value.dtype not in _STORED or not numbers.ndim:  # a bias of 32 bits, or a single number
        return fold(node, [emit.function.array(one) for one in node.inputs])[0]
    shape = _blocks(emit, numbers.shape, scale)
    zero = None if zero is None else zero.reshape(shape)
    held = Integers(numbers, scale.reshape(shape), zero, result.name or "")
    emit.function.integers[result] = held
    return None


def quantize(emit: Emit, node: ir.Node) -> Any:
    """clip(round(x / scale) + zero), of 8 bits, with one scale or one along an axis."""
    x = emit.var(0)
    scale, zero = _parameters(emit)
    made = node.outputs[0].dtype
    if made is None or made not in _BYTES:
        raise emit.fault(f"MIL quantizes values to 8 bits, not to {made}")
    given = _given(emit, len(x.shape), scale, zero)
    return emit("quantize", input=x, output_dtype=_BYTES[made], **given)


def _parameters(emit: Emit) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns scale and zero, which have to be known; a zero of nothing but 0 is None."""
    scale, zero = emit.known(1), emit.known(2)
    if scale is None or (emit.operand(2) is not None and zero is None):
        raise emit.fault("its scale or its zero depends on the text")
    if scale.size == 1:  # one for all, however many axes it has
        scale, zero = scale.reshape(()), None if zero is None else zero.reshape(())
    return scale, zero if zero is not None and zero.any() else None


def _given(emit: Emit, rank: int, scale: np.ndarray, zero: np.ndarray | None) -> dict[str, Any]:
    """Returns the parameters that MIL's `quantize` and `dequantize` share; with an axis where there
    are several scales."""
    if scale.ndim > 1 or emit.attribute("block_size", 0):
        raise emit.fault("MIL takes one scale for a value or one along an axis, none for blocks")
    given = {"scale": scale if scale.ndim else scale[()]}
    if zero is not None:
        given["zero_point"] = zero if zero.ndim else zero[()]
    return {**given, "axis": emit.attribute("axis", 1) % rank} if scale.ndim else given


def _blocks(emit: Emit, sizes: tuple[int, ...], scale: np.ndarray) -> tuple[int, ...]:
    """Returns the shape of `scale` with an axis for each of the integers'."""
    if scale.ndim == 0:
        return (1,) * len(sizes)
    axis = emit.attribute("axis", 1) % len(sizes)
    if scale.ndim == 1:
        return tuple(scale.size if place == axis else 1 for place in range(len(sizes)))
    if any(size % count for size, count in zip(sizes, scale.shape, strict=True)):
        raise emit.fault("a row is no whole number of blocks")
    return scale.shape


ROWS: dict[str, Row] = {"QuantizeLinear": quantize, "DequantizeLinear": dequantize}
"""ONNX op → its row."""
