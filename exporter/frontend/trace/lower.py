"""Exported program → ONNX, by torch.onnx, without the work that has no effect.

torch.onnx prepares every program by tracing it again from end to end (`run_decompositions`), then
once more to promote types, and tries every rule of its optimiser at every node. On a model of 24
layers this is three quarters of the time of a trace, and changes next to nothing: transformers'
models consist of operators that torch.onnx translates as they stand, a value's type is known from
the trace, and a rule whose pattern ends in another operator cannot match. So this module prepares a
*plain* program node by node, and tries rules only where they can match. Any other program goes
torch's own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.rewriter import RewriteRule
from onnxscript.rewriter._matcher import SimplePatternMatcher

from goldfold.exporter.contract import ATTENTION_MASK, EMBEDDING, INPUT_IDS
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.trace.reasons import why
from goldfold.exporter.ir import dialect


def lower(exported: torch.export.ExportedProgram) -> ir.Model:
    """Returns the program as an ONNX model at our opset, with BandAttention's definition where it
    is used.

    Uses `exported` up. Raises ModelError if torch.onnx cannot translate it.
    """
    try:
        with _rules_where_they_can_match():
            model = _translate(exported)
    except Exception as error:
        raise ModelError(f"torch.onnx cannot translate this model: {why(error)}") from error
    model.ir_version = dialect.IR_VERSION
    dialect.define(model)
    return model


def _translate(exported: torch.export.ExportedProgram) -> ir.Model:
    """Returns what torch.onnx.export makes of the program; `plain.translate` gives the same with
    less work."""
    with suppress(Exception):  # torch.onnx.export reports any error below
        # Imported here, since `plain` uses modules of torch that another release may have moved.
        from goldfold.exporter.frontend.trace import plain

        model = plain.translate(exported)
        if model is not None:
            return model
    program = torch.onnx.export(
        exported,
        dynamo=True,
        opset_version=dialect.OPSET,
        optimize=True,
        verbose=False,
        input_names=[INPUT_IDS, ATTENTION_MASK],
        output_names=[EMBEDDING],
    )
    if program is None:
        raise ModelError("it returned nothing")
    return program.model


@contextmanager
def _rules_where_they_can_match() -> Iterator[None]:
    """While this is open, onnxscript tries a rewrite rule only at nodes of the operator in which
    its pattern ends.

    onnxscript's matcher finds out late: for a pattern with two outputs it first lists every node of
    the graph.
    """
    ends: dict[RewriteRule, str | None] = {}
    original: Callable[..., Any] = RewriteRule.try_rewrite

    def try_rewrite(self: RewriteRule, model: Any, graph: Any, node: ir.Node, **options: Any):
        if self not in ends:
            ends[self] = _end(self)
        if ends[self] not in (None, node.op_type):
            return None
        return original(self, model, graph, node, **options)

    RewriteRule.try_rewrite = try_rewrite  # type: ignore[method-assign]
    try:
        yield
    finally:
        RewriteRule.try_rewrite = original  # type: ignore[method-assign]


def _end(rule: Any) -> str | None:
    """Returns the operator of the node at which `rule` may match; None if it can be any of
    several."""
    if not isinstance(rule._matcher, SimplePatternMatcher):
        return None
    first = rule._target_pattern.output_nodes[0].op_identifier()
    return None if first is None else first[1]
