"""Values of a program by their role in an encoder, and the share of fp16's range that each role
takes.

The graph decides the role of a value, and names do not count: the sum of two computed values is
the residual stream, and the product of two computed factors is the MLP's product.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from goldfold.exporter.evaluate.ranges import SCORES
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import TOKENS, Program
from goldfold.exporter.passes.rewriting.attention import (
    computed,
    feeds_attention,
    is_lookup,
    serves_attention,
    sums_computed,
)
from goldfold.exporter.passes.scale_residual import EXPONENT
from goldfold.exporter.records import KindRange

STREAM = "residual stream"
ATTENTION_SCORES = "attention scores"
OTHER = "other"
_ARITHMETIC = frozenset({"Add", "Mul", "Div", "Where"})
"""Ops that mask and scale scores."""


def named(program: Program) -> dict[str, str]:
    """Kind by value name, of every value that a node computes. Call it before half precision, whose
    casts would hide the structure."""
    found: dict[ir.Value, str] = {}
    for node in program.graph:
        kind = _kind(node, found)
        found.update(dict.fromkeys(node.outputs, kind))
    return {value.name: kind for value, kind in found.items() if value.name}


def _kind(node: ir.Node, found: Mapping[ir.Value, str]) -> str:
    op = dialect.op_of(node)
    made = computed(node)
    if is_lookup(node):
        return "embeddings"
    shape = node.outputs[0].shape
    if shape is not None and not any(str(size) in (TOKENS, "None") for size in shape):
        return "pooling and head"
    if op in dialect.NORMS:
        return "norms"
    if dialect.is_band_attention(node):
        return "attention's output"
    if op == "Softmax":
        return "attention weights"
    if op in dialect.ACTIVATIONS:
        return "activations"
    if op in ("MatMul", "Gemm") and len(made) == 1:
        if not serves_attention(node):
            return "MLP projections"
        return "queries, keys, values" if feeds_attention(node) else "attention's projection"
    if op == "MatMul":  # attention as the source model writes it
        return ATTENTION_SCORES if _reaches_softmax(node) else "attention's output"
    if sums_computed(node):
        return found.get(made[0], OTHER) if _reaches_softmax(node) else STREAM
    if op == "Mul" and len(made) == 2:
        return "MLP product"
    # A bias, a factor or a move: the result has the kind of the value that the node reads.
    known = [found[v] for v in made if found.get(v, OTHER) != OTHER]
    return known[0] if known else OTHER


def _reaches_softmax(node: ir.Node, steps: int = 4) -> bool:
    """Whether a softmax reads the result of `node`, scaled, moved or masked on the way."""
    readers = [use.node for value in node.outputs for use in value.uses()]
    near = any(reader.op_type == "Softmax" for reader in readers)
    between = [r for r in readers if r.op_type in (_ARITHMETIC | dialect.PASSES_SCORES)]
    return near or (steps > 0 and any(_reaches_softmax(r, steps - 1) for r in between))


def summary(
    kinds: Mapping[str, str], peaks: Mapping[str, float], program: Program, typed: bool
) -> tuple[KindRange, ...]:
    """The largest magnitude of every kind, largest first; empty without peaks. `kinds` is the
    result of `named` for the program whose ranges `peaks` are (exporter/evaluate/ranges.py),
    `program` is the same program in half precision, and `typed` is as in targets/base.py."""
    exponents: dict[str, int] = {}
    halves: set[str] = set()
    for node in program.graph:
        for value in node.outputs:
            name = (value.name or "").partition(".half")[0]  # set-precision keeps the rest
            if EXPONENT in value.metadata_props:
                exponents[name] = int(value.metadata_props[EXPONENT])
            if value.dtype == ir.DataType.FLOAT16:
                halves.add(name)
    grouped: dict[str, list[tuple[float, float, str]]] = {}
    for name, peak in peaks.items():
        own = name.removesuffix(SCORES)
        kind = ATTENTION_SCORES if own != name else kinds.get(name, OTHER)
        grouped.setdefault(kind, []).append((peak, peak * 2.0 ** -exponents.get(name, 0), own))
    found = []
    for kind, rows in grouped.items():
        peak, _, at = max(rows)
        half = not typed or any(name in halves for *_, name in rows)
        scaled = max(scaled for _, scaled, _ in rows)
        row = KindRange(kind=kind, peak=peak, scaled=scaled, at=at, values=len(rows), half=half)
        found.append(row)
    return tuple(sorted(found, key=lambda row: (-row.peak, row.kind)))
