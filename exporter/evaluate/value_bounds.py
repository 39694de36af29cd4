"""The values of a program that are typed fp16, each with the bound that holds for every text, or
with the word that calibration chose its range.

Calibration chooses where a bound does not close: where there is none, or where it lies beyond
65,504. Such a value has kept HEADROOM on the calibration texts (passes/rewriting/headroom.py), and
another text may reach further.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from goldfold.exporter.evaluate import value_roles
from goldfold.exporter.evaluate.bounds import Bounds
from goldfold.exporter.evaluate.ranges import SCORES
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.rewriting.headroom import FP16_MAX
from goldfold.exporter.proofs import KindBounds
from goldfold.exporter.records import KindRange


def table(kinds: Mapping[str, str], found: Bounds, program: Program) -> tuple[KindBounds, ...]:
    """Returns the fp16-typed values of `program` by kind. `kinds` are the kinds of its values
    before half precision, `found` its bounds. A bound is raised to three digits, so that machines
    which sum in another order write the same."""
    own = value_roles.named(program)
    rows: dict[str, tuple[dict[str, float], dict[str, float]]] = {}
    for node in program.graph:
        names = [v.name for v in node.outputs if v.name and v.dtype == ir.DataType.FLOAT16]
        if names and dialect.is_band_attention(node):
            names.append(f"{names[0]}{SCORES}")
        for name in names:
            kind = value_roles.ATTENTION_SCORES if name.endswith(SCORES) else None
            plain = name.partition(".half")[0]
            kind = kind or kinds.get(plain) or own.get(name, value_roles.OTHER)
            bound = found.largest.get(name, float("inf"))
            proved, calibrated = rows.setdefault(kind, ({}, {}))
            (proved if bound < FP16_MAX else calibrated)[name] = _raised(bound)
    made = [KindBounds(kind=k, proved=p, calibrated=c) for k, (p, c) in rows.items()]
    return tuple(sorted(made, key=lambda row: row.kind))


def _raised(bound: float) -> float:
    """The bound at three digits, rounded up, but not to fp16's end."""
    up = float(f"{bound:.2e}")
    if up < bound:
        up = float(f"{bound * 1.01:.2e}")
    return bound if bound < FP16_MAX <= up else up


def joined(ranges: tuple[KindRange, ...], rows: tuple[KindBounds, ...]) -> tuple[KindRange, ...]:
    """Returns the ranges with the bounds of the same kinds."""
    by_kind = {row.kind: row for row in rows}
    found = []
    for one in ranges:
        row = by_kind.get(one.kind)
        if row is not None:
            bounds = (*row.proved.values(), *row.calibrated.values())
            one = one.with_(bound=max(bounds), calibrated=len(row.calibrated))
        found.append(one)
    return tuple(found)
