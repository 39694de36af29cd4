"""Matryoshka heads: the embedding's leading dimensions as outputs of their own, one trunk for all.

What is asked of a program before any law sees it: outputs and contract change together here, and
nowhere else. Laws then make the most of it: `narrow-linear` leaves out the rows that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exporter.errors import UsageError
from exporter.passes.pattern import normalised
from exporter.program import EMBEDDING, MODULE, Program, add_constant, drop_unused

_FLOOR = 1e-12
"""torch.nn.functional.normalize's: a zero row stays zero."""


def check(dims: Sequence[int], full: int) -> tuple[int, ...]:
    """`dims`, largest first. Raises UsageError for one that the model does not have, or twice."""
    for dim in dims:
        if not 1 <= dim <= full:
            raise UsageError(f"--dims {dim}: the model has 1 … {full} dimensions")
    if len(set(dims)) != len(dims):
        raise UsageError(f"--dims {','.join(map(str, dims))} names a size twice")
    return tuple(sorted(dims, reverse=True))


def add(program: Program, dims: Sequence[int]) -> None:
    """Give `program` the heads `dims`: the largest is its embedding, the others stand behind it.

    A head is a slice of what the model normalises at its end, normalised by itself; of a model that
    does not normalise, the slice. Raises UsageError for a size that the model does not have.
    """
    contract, graph = program.contract, program.graph
    largest, *others = check(dims, contract.dim)
    output = graph.outputs[0]
    whole = normalised(output.producer()) if contract.normalized else output
    if whole is None:
        whole = output  # scaled by its own length already, which normalising again does not see
    heads = [_head(program, whole, dim) for dim in others]
    if largest != contract.dim:
        output.name = f"{EMBEDDING}.whole"
        head = _head(program, whole, largest)
        head.name = contract.output
        graph.outputs[0] = head
    graph.outputs.extend(heads)
    program.contract = contract.model_copy(update={"dim": largest, "heads": tuple(others)})
    drop_unused(program.model)


def _head(program: Program, whole: ir.Value, dim: int) -> ir.Value:
    """Nodes for one head at the end of the graph; float32 [batch, dim]."""
    graph, contract = program.graph, program.contract
    name = f"{EMBEDDING}_{dim}"
    batch = whole.shape[0] if whole.shape is not None else None

    def number(array: np.ndarray, wish: str) -> ir.Value:
        return add_constant(graph, f"{name}.{wish}", array)

    def emit(op: str, *inputs: ir.Value, width: int, last: str, **attributes: int) -> ir.Value:
        node = ir.node(op, list(inputs), attributes, name=f"{name}.{last}")
        node.metadata_props[MODULE] = f"heads.{dim}"
        made = node.outputs[0]
        made.name, made.type = f"{name}.{last}", ir.TensorType(ir.DataType.FLOAT)
        made.shape = ir.Shape([batch, width])
        graph.append(node)
        return made

    zero, axis = number(np.array([0]), "start"), number(np.array([-1]), "axis")
    made = emit("Slice", whole, zero, number(np.array([dim]), "end"), axis, width=dim, last="slice")
    if contract.normalized:
        length = emit("ReduceL2", made, axis, width=1, last="length", keepdims=1)
        floor = number(np.array(_FLOOR, dtype=np.float32), "floor")
        divisor = emit("Clip", length, floor, width=1, last="divisor")
        made = emit("Div", made, divisor, width=dim, last="unit")
    made.name = name
    return made
