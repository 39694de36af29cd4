"""The derivation of a table of angles: cos(position · frequency), perhaps times a factor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from goldfold.exporter.ir.derivation import LOST, Derived, Expr, cast, literal, reshape

_F32 = np.dtype(np.float32)
_NEAR = 2.0**-23
"""The distance of a cosine of f32 to the real one: an ulp of 1, as the checker has it. Libraries
round cosines correctly nearly always."""


def table_of_angles(
    table: np.ndarray, frequencies: Iterable[Derived], factors: Sequence[Derived]
) -> Expr:
    """The derivation of f32 `table` [positions, width]: cosines or sines of its positions times one
    of `frequencies` [width], times one of `factors` or none, each product rounded to f32. LOST if
    it is neither."""
    rows = np.arange(len(table), dtype=np.float32)
    for frequency in frequencies:
        if frequency.size != table.shape[1] or frequency.dtype != _F32:
            continue
        angles = rows[:, None] * np.asarray(frequency).reshape(1, -1)
        position = reshape(Expr("arange", ("float32", 0, len(table), 1)), (len(table), 1))
        spread = reshape(frequency.derivation, (1, frequency.size))
        angle = cast(Expr("mul", (position, spread)), _F32)
        for op, function in (("cosine", np.cos), ("sine", np.sin)):
            wanted = function(angles.astype(np.float64)).astype(np.float32)
            turned = cast(Expr(op, (angle,)), _F32)
            if np.abs(table - wanted).max(initial=0) <= _NEAR:
                return turned
            for factor in factors:
                scaled = wanted * np.float32(factor.item())
                if np.abs(table - scaled).max(initial=0) <= _NEAR * max(1.0, abs(factor.item())):
                    by = literal(np.float32(factor.item()))
                    return cast(Expr("mul", (turned, by)), _F32)
    return LOST
