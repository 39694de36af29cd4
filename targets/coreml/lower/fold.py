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
from goldfold.exporter.ir.derivation import folded
from goldfold.exporter.ir.program import where


def fold(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Returns the results of `node` on `arrays`, by ONNX's own reference implementation.

    An operand that is left out is None. Raises RewriteError if the reference refuses the node.
    """
    if node.op_type == "Gather" and not node.domain and len(arrays) == 2:
        data, indices = arrays
        assert data is not None and indices is not None
        return [np.take(data, np.asarray(indices), axis=node.attributes.get_int("axis", 0))]
    if node.op_type == "GatherElements" and not node.domain:
        return [_gather_elements(node, arrays)]
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
    return [folded(np.asarray(result), *arrays) for result in results]


def _gather_elements(node: ir.Node, arrays: Sequence[np.ndarray | None]) -> np.ndarray:
    """Gathers elements here, because the reference refuses a single row from which many are
    taken."""
    data, indices = arrays[0], arrays[1]
    assert data is not None and indices is not None
    axis = node.attributes.get_int("axis", 0) % data.ndim
    part = tuple(slice(n) if i != axis else slice(None) for i, n in enumerate(indices.shape))
    return folded(np.take_along_axis(np.asarray(data)[part], indices, axis), data, indices)
