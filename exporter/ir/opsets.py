"""The versions of ONNX's default domain: what a node needs of an opset, by ONNX's own schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx.defs
import onnx.helper
import onnx_ir as ir

from goldfold.exporter.errors import TargetError
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, where

OLDEST = 17
"""The first opset with LayerNormalization."""

_WORDS: dict[tuple[str, str], dict[str, int]] = {
    ("ScatterElements", "reduction"): {"max": 18, "min": 18},
    ("ScatterND", "reduction"): {"max": 18, "min": 18},
    ("Pad", "mode"): {"wrap": 19},
}
"""The first opset in which an attribute may have a value: a schema lists no values."""


def file_version(opset: int) -> int:
    """Returns the version of the ONNX file format for a graph of this opset: the first that has it,
    which every runtime that knows the opset reads."""
    ids = [onnx.helper.make_opsetid("", opset)]
    return min(dialect.IR_VERSION, onnx.helper.find_min_ir_version_for(ids))


@dataclass(frozen=True)
class Use:
    """One use of an op: what a schema says something of."""

    op: str
    inputs: tuple[ir.DataType | None, ...]
    """The types, where they are known."""
    outputs: tuple[ir.DataType | None, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: ir.Node) -> Use:
        given = tuple(None if value is None else value.dtype for value in node.inputs)
        made = tuple(value.dtype for value in node.outputs)
        attributes = {name: one.value for name, one in node.attributes.items()}
        return cls(node.op_type, given, made, attributes)


def newer(op: str, opset: int) -> bool:
    """Returns whether an op is newer than `opset`."""
    return not onnx.defs.has(op, opset)


def fault(use: Use, opset: int) -> str | None:
    """Returns what a use of an op needs that `opset` has not: the op itself, an input, an
    attribute, the value of one, or the type of an input or a result. None if there is nothing."""
    op = use.op
    if newer(op, opset):
        return op
    schema = onnx.defs.get_schema(op, opset)
    if len(use.inputs) > schema.max_input:
        return f"the input {len(use.inputs) - 1} of {op}"
    for name, value in use.attributes.items():
        if name not in schema.attributes:
            return f"the attribute {name} of {op}"
        if _WORDS.get((op, name), {}).get(str(value), 0) > opset:
            return f"{name}={value} of {op}"
    for formal, types in ((schema.inputs, use.inputs), (schema.outputs, use.outputs)):
        for place, kind in enumerate(types):
            taken = formal[min(place, len(formal) - 1)].types
            if kind is not None and f"tensor({kind.name.lower()})" not in taken:
                return f"{op} of {kind}"
    return None


def since(use: Use, opset: int) -> int:
    """Returns the first opset after `opset` that has all that a use in the dialect needs."""
    later = range(opset + 1, dialect.OPSET)
    return next((one for one in later if fault(use, one) is None), dialect.OPSET)


def lacking(use: Use, opset: int) -> str | None:
    """Returns a sentence that names what `opset` lacks for a use, and the opset that has it; None
    if it lacks nothing."""
    found = fault(use, opset)
    return found and f"opset {opset} has not {found}, opset {since(use, opset)} has"


def check(program: Program, opset: int, target: str) -> None:
    """Raise TargetError, naming `target`, the op, its node and source module, and the lowest opset
    that has all ops of the program, if it could not be written for `opset`. An op that the dialect
    does not know either is not this function's."""
    if program.model.opset_imports[""] == opset:
        return
    known = (n for n in program.graph if not n.domain and not newer(n.op_type, dialect.OPSET))
    left = [(node, said) for node in known if (said := fault(Use.of(node), opset))]
    if left:
        node, said = left[0]
        least = max(since(Use.of(one), opset) for one, _ in left)
        raise TargetError(
            f"{target}: opset {opset} has not {said} (node {node.name}, from {where(node)}); "
            f"export with --opset {least} or more"
        )
