"""The derivation of integers: the nearest ones of their scales, or a statement of how far they are
from the weights."""

from __future__ import annotations

import numpy as np

from goldfold.exporter.ir.derivation import LOST, Derived, Expr, cast, literal, of
from goldfold.exporter.passes.rewriting.grid import Quantized, parts

_SLACK = 1 + 2.0**-20
"""A stated bound is rounded up by this factor, so that an evaluation in another order holds it: the
difference of two f64 sums of up to 2^20 terms is far below."""


def rounding(matrix: Derived, found: Quantized, scale: Expr) -> Expr:
    """The derivation of `found.numbers` [channels, inputs] from a matrix of that shape.

    `nearest` where each is the nearest integer of its scale, which the checker repeats to the bit.
    Otherwise `steps`, with the largest error of a weight and the largest root mean square of a
    channel's errors, both in steps of the scale.
    """
    weights = of(matrix)
    if weights is LOST:
        return LOST
    if found.columns is not None:
        weights = cast(Expr("div", (weights, literal(found.columns))), np.dtype(np.float32))
    given = (weights, scale, found.grid.bits, found.grid.block)
    low, high = found.grid.low, found.grid.high
    if all(
        np.array_equal(np.clip(np.rint(part / steps), low, high), numbers)
        for part, numbers, steps in parts(np.asarray(matrix), found)
    ):
        return Expr("nearest", given)
    return _stated(matrix, found, given)


def _stated(matrix: Derived, found: Quantized, given: tuple) -> Expr:
    most = row = 0.0
    for part, numbers, steps in parts(np.asarray(matrix), found):
        error = np.abs(numbers - part / steps.astype(np.float64)).reshape(len(part), -1)
        most = max(most, float(error.max(initial=0.0)))
        row = max(row, float(np.sqrt(np.square(error).mean(axis=1)).max(initial=0.0)))
    return Expr("steps", (*given, most * _SLACK, row * _SLACK))
