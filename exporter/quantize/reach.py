"""The numbers that fp16, which holds the scales and the steps, reaches; the rest is refused by the
name of the matrix."""

from __future__ import annotations

import numpy as np

from goldfold.exporter.errors import UsageError
from goldfold.exporter.passes.rewriting.grid import Quantized, representable
from goldfold.exporter.quantize.sites import Site
from goldfold.exporter.quantize.statistics import Activation

_LARGEST = float(np.finfo(np.float16).max)
_SLIGHT = 2.0**-16
"""The size of a row beside the largest weight of its matrix from which on it must not become zeros:
rounding to 8 bits moves that weight by 128 times as much."""
_NO_STEP = 1e-6
"""The step of a value that is 0 on all texts."""


def check_scales(site: Site, found: Quantized) -> None:
    """Raise UsageError where fp16, which holds the scales, does not reach a matrix's weights: all
    of them, or a row that is not small beside the others. A row that is becomes zeros."""
    reached = max(int(found.numbers.max(initial=0)), -int(found.numbers.min(initial=0)))
    lost, where = 8 * reached < found.grid.high and bool(site.matrix.any()), ""
    above = found.scale.max(initial=0) >= _LARGEST
    if not lost and not above and (row := _lost_row(site.matrix, found)) is not None:
        lost, where = True, f" in row {row} of its output" if site.x is not None else f" {row}"
    if lost or above:
        raise UsageError(
            f"{site.place} ({site.kind}) has weights{where} {'below' if lost else 'above'} every "
            "scale that fp16 holds: leave it in floating point (bits = 0 in a rule of a recipe)"
        )


def _lost_row(matrix: np.ndarray, found: Quantized) -> int | None:
    """The first row whose weights are all rounded to zero and are not slight."""
    largest = float(found.scale.max(initial=0)) * found.grid.high
    for row in np.flatnonzero(~found.numbers.any(axis=1)):
        weights = np.asarray(matrix[row], np.float32)
        weights = weights if found.columns is None else weights / found.columns
        if float(np.abs(weights).max(initial=0)) > _SLIGHT * largest:
            return int(row)
    return None


def step(site: Site, seen: Activation) -> float:
    """The step of a static int8 activation: the largest magnitude over 127. Raises UsageError where
    fp16 does not hold it."""
    wanted = np.asarray(seen.peak.max(initial=0) / 127, np.float32)
    if wanted > _LARGEST:
        raise UsageError(
            f"{site.place} ({site.kind}) reads values up to {seen.peak.max():.1e}, above every "
            'step that fp16 holds: leave them in floating point (activations = "none" in a rule of '
            "a recipe)"
        )
    return float(representable(wanted)) if wanted else _NO_STEP
