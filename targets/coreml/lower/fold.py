"""Constant folding of one ONNX node on known arrays: values that depend on constants and sizes
alone are computed while building."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from goldfold.exporter.errors import RewriteError
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.derivation import folded, is_free
from goldfold.exporter.ir.program import where


def fold(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Returns the results of `node` on `arrays`, by ONNX's own reference implementation.

    An operand that is left out is None. Raises RewriteError if the reference refuses the node.
    """
    if node.op_type == "GatherElements" and not node.domain:
        return [_gather_elements(node, arrays)]
    if node.op_type in ("MatMul", "LayerNormalization") and not node.domain and _derived(arrays):
        return [_in_f64(node, arrays)]
    names = ["" if array is None else f"i{place}" for place, array in enumerate(arrays)]
    outputs = [f"o{place}" for place in range(len(node.outputs))]
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=names, output=outputs)
    for attribute in node.attributes.values():
        proto.attribute.append(ir.to_proto(attribute))
    known = [(name, array) for name, array in zip(names, arrays, strict=True) if array is not None]
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in known
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    opset = [onnx.helper.make_opsetid("", dialect.OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=dialect.IR_VERSION)
    try:
        with np.errstate(all="ignore"):  # log(0) hides behind a Where, here as in the model
            results = onnx.reference.ReferenceEvaluator(model).run(None, dict(known))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RewriteError(
            f"coreml cannot compute {dialect.op_of(node)} on constants (node {node.name}, "
            f"from {where(node)}): {reason}"
        ) from error
    return [_followed(node, arrays, np.asarray(result)) for result in results]


def _derived(arrays: Sequence[np.ndarray | None]) -> bool:
    """Whether one of the floating operands follows from a tensor of the model."""
    floating = (array for array in arrays if array is not None and array.dtype.kind == "f")
    return any(not is_free(array) for array in floating)


def _in_f64(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """A product or a norm of constants, in f64 and rounded once, as its derivation says."""
    x, w = arrays[:2]
    assert x is not None and w is not None
    kind, wide = x.dtype, x.astype(np.float64)
    if node.op_type == "MatMul":
        if w.ndim > 2 or (x.ndim > 2 and w.ndim < 2):
            return folded(np.matmul(np.asarray(wide), np.asarray(w)).astype(kind), x, w)
        if x.ndim <= 2:
            return (wide @ w.astype(np.float64)).astype(kind)
        made = wide.reshape(-1, x.shape[-1]) @ w.astype(np.float64)
        return made.reshape(*x.shape[:-1], w.shape[-1]).astype(kind)
    width = x.shape[-1]
    rows = wide.reshape(-1, width)
    ones = np.ones((width, 1))
    off = rows - (rows @ ones) / width
    spread = (off * off) @ ones / width + node.attributes.get_float("epsilon", 1e-5)
    made = off / np.sqrt(spread) * w.astype(np.float64)
    bias = arrays[2] if len(arrays) > 2 else None
    made = made if bias is None else made + bias.astype(np.float64)
    return made.reshape(x.shape).astype(kind)


def _followed(node: ir.Node, arrays: Sequence[np.ndarray | None], result: np.ndarray) -> np.ndarray:
    """The result with its derivation, where this op's is known."""
    x, operands = arrays[0], [array for array in arrays if array is not None]
    again = None
    if x is not None and not node.domain and _derived(arrays):
        again = _again(node, x, operands, result)
    same = again is not None and np.array_equal(np.asarray(again), result, equal_nan=True)
    return again if again is not None and same else folded(result, *operands)


def _again(
    node: ir.Node, x: np.ndarray, operands: Sequence[np.ndarray], result: np.ndarray
) -> np.ndarray | None:
    """The result once more, by operations that a derivation follows (ir/derivation.py)."""
    match node.op_type:
        case "Identity" | "Reshape" | "Unsqueeze" | "Squeeze" | "Flatten":
            return x.reshape(result.shape)
        case "Tile" if x.shape == result.shape:  # once, as for each text of one
            return x.reshape(result.shape)
        case "Transpose":
            axes = node.attributes.get("perm")
            return x.transpose() if axes is None else x.transpose(tuple(axes.as_ints()))
        case "Cast":
            return x.astype(result.dtype)
        case "Expand":
            return np.broadcast_to(x, result.shape)
        case "Gather":
            return np.take(x, np.asarray(operands[1]), axis=node.attributes.get_int("axis", 0))
        case "Concat":
            return np.concatenate(operands, axis=node.attributes.get_int("axis", 0))
        case "Slice":
            starts, ends, *rest = (np.asarray(one).reshape(-1).tolist() for one in operands[1:])
            axes = rest[0] if rest else range(len(starts))
            if len(rest) > 1 and any(step != 1 for step in rest[1]):
                return None
            at = [slice(None)] * x.ndim
            for start, end, axis in zip(starts, ends, axes, strict=True):
                at[axis] = slice(start, end)
            return x[tuple(at)]
        case "Add":
            return operands[0] + operands[1]
        case "Sub":
            return operands[0] - operands[1]
        case "Mul":
            return operands[0] * operands[1]
        case "Div":
            return operands[0] / operands[1]
    return None


def _gather_elements(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """Gathers elements here, because the reference refuses a single row from which many are
    taken."""
    data, indices = arrays[0], arrays[1]
    assert data is not None and indices is not None
    axis = node.attributes.get_int("axis", 0) % data.ndim
    part = tuple(slice(n) if i != axis else slice(None) for i, n in enumerate(indices.shape))
    taken = np.take_along_axis(np.asarray(data)[part], np.asarray(indices), axis)
    return folded(taken, data, indices)
