"""The derivation of a table of angles: cos(position · frequency), perhaps times a factor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from goldfold.exporter.ir.derivation import LOST, Derived, Expr, cast, literal, reshape


def table_of_angles(
    table: np.ndarray, frequencies: Iterable[Derived], factors: Sequence[Derived]
) -> Expr:
    """The derivation of `table` [positions, width]: cosines or sines of its positions times one
    of `frequencies` [width], times one of `factors` or none, each product rounded to its type. LOST
    if it is neither. A library's cosine may be off by an ulp of 1, as the checker has it."""
    kind = table.dtype
    near = float(np.finfo(kind).eps)
    rows = np.arange(len(table), dtype=kind)
    for frequency in frequencies:
        if frequency.size != table.shape[1] or frequency.dtype != kind:
            continue
        angles = rows[:, None] * np.asarray(frequency).reshape(1, -1)
        position = reshape(Expr("arange", (str(kind), 0, len(table), 1)), (len(table), 1))
        spread = reshape(frequency.derivation, (1, frequency.size))
        angle = cast(Expr("mul", (position, spread)), kind)
        for op, function in (("cosine", np.cos), ("sine", np.sin)):
            wanted = function(angles.astype(np.float64)).astype(kind)
            turned = cast(Expr(op, (angle,)), kind)
            if np.abs(table - wanted).max(initial=0) <= near:
                return turned
            for factor in factors:
                by = kind.type(factor.item())
                if np.abs(table - wanted * by).max(initial=0) <= near * max(1.0, abs(float(by))):
                    return cast(Expr("mul", (turned, literal(by))), kind)
    return LOST
