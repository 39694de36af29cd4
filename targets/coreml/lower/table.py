"""The op table: every ONNX op that has a row, and the row."""

from __future__ import annotations

from goldfold.targets.coreml.lower import rows_integers, rows_layers, rows_math, rows_tensor
from goldfold.targets.coreml.lower.lowering import Row

ROWS: dict[str, Row] = {
    **rows_math.ROWS, **rows_tensor.ROWS, **rows_layers.ROWS, **rows_integers.ROWS,
}  # fmt: skip
