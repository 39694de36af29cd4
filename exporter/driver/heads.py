"""Matryoshka heads: the embedding's leading dimensions as outputs of their own, one trunk for all.

Heads are added before any pass sees the program: outputs and contract change together here, and
nowhere else. Passes then profit from them: `narrow-linear` leaves out the rows that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import EMBEDDING, Contract
from goldfold.exporter.errors import UsageError
from goldfold.exporter.ir.program import Program, add_constant, drop_unused
from goldfold.exporter.passes.rewriting.pattern import normalised
from goldfold.exporter.passes.rewriting.writer import Writer

_FLOOR = 1e-12
"""torch.nn.functional.normalize's floor: a zero row stays zero."""


def check(dims: Sequence[int], contract: Contract, most: int | None = None) -> tuple[int, ...]:
    """Returns `dims`, largest first. Raises UsageError for one that the model does not have, where
    the model gives no embedding, or has outputs by its prompts, and for a text of `most` tokens
    that a prompt would fill."""
    full = contract.dim
    if dims and contract.task != "embedding":
        raise UsageError(
            "--dims: the model gives no embedding of a text, which alone can be shortened"
        )
    if dims and contract.unpooled:
        raise UsageError(
            f"--dims: {contract.model} leaves prompts out of its pooling, and has an output for "
            "each length of a prompt; shorten what embed gives, with its dims"
        )
    for name, tokens in contract.unpooled.items():
        if tokens >= (most or contract.max_length):
            raise UsageError(
                f"--max-length {most or contract.max_length}: {contract.model} has the prompt "
                f"{name!r}, which alone has {tokens} tokens; give more than that"
            )
    for dim in dims:
        if not 1 <= dim <= full:
            raise UsageError(f"--dims {dim}: the model has 1 … {full} dimensions")
    return tuple(sorted(dims, reverse=True))


def add(program: Program, dims: Sequence[int]) -> None:
    """Give `program` the heads `dims`: the largest is its embedding, the others follow it.

    A head is a slice of the vector that the model normalises at its end, normalised by itself; for
    a model that does not normalise, the slice. Raises UsageError for a size that the model does not
    have.
    """
    contract, graph = program.contract, program.graph
    largest, *others = check(dims, contract)
    output = graph.outputs[0]
    whole = normalised(output.producer()) if contract.normalized else output
    if whole is None:
        whole = output  # scaled by its own length: normalising again ignores that
    trunk = whole
    if largest != contract.dim:  # all heads from the largest: nobody reads the rows behind it
        output.name = f"{EMBEDDING}.whole"
        trunk = _Head(program, largest).slice(whole)
    heads = [_head(program, trunk, dim, cut=True) for dim in others]
    if largest != contract.dim:
        head = _head(program, trunk, largest, cut=False)
        head.name = contract.output
        graph.outputs[0] = head
    graph.outputs.extend(heads)
    program.contract = contract.with_(dim=largest, heads=tuple(others))
    drop_unused(program.model)


def _head(program: Program, trunk: ir.Value, dim: int, cut: bool) -> ir.Value:
    """Adds the nodes for one head at the end of the graph; float32 [batch, dim]."""
    write = _Head(program, dim)
    made = write.slice(trunk) if cut else trunk
    if program.contract.normalized:
        made = write.normalise(made)
    elif not cut:
        made = write.rows("Identity", made, width=dim, last="whole")
    made.name = f"{EMBEDDING}_{dim}"
    return made


class _Head(Writer):
    """A writer that appends the nodes of one head to the graph."""

    def __init__(self, program: Program, dim: int) -> None:
        super().__init__(program.graph, f"{EMBEDDING}_{dim}", f"heads.{dim}")
        self.dim = dim

    def rows(self, op: str, *inputs: ir.Value, width: int, last: str, **attributes: int):
        """Returns float32 [batch, width]."""
        given, kind = inputs[0].shape, ir.TensorType(ir.DataType.FLOAT)
        shape = [given[0] if given is not None else None, width]
        return self(op, *inputs, name=last, type=kind, shape=shape, **attributes)

    def constant(self, array: np.ndarray, last: str) -> ir.Value:
        return add_constant(self.graph, f"{self.stem}.{last}", array)

    def slice(self, whole: ir.Value) -> ir.Value:
        """Returns the first `dim` columns."""
        start, end = (
            self.constant(np.array([0]), "start"),
            self.constant(np.array([self.dim]), "end"),
        )
        axis = self.constant(np.array([-1]), "axis")
        return self.rows("Slice", whole, start, end, axis, width=self.dim, last="slice")

    def normalise(self, rows: ir.Value) -> ir.Value:
        """Returns the rows divided by their lengths, as torch does."""
        axis = self.constant(np.array([-1]), "axis")
        length = self.rows("ReduceL2", rows, axis, width=1, last="length", keepdims=1)
        floor = self.constant(np.array(_FLOOR, dtype=np.float32), "floor")
        divisor = self.rows("Clip", length, floor, width=1, last="divisor")
        return self.rows("Div", rows, divisor, width=self.dim, last="unit")
