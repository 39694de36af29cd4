"""Numbers of 4 bits, two to a byte: stored as bytes, and opened by arithmetic that every runtime
has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.derivation import Expr, literal
from goldfold.exporter.ir.program import derivation_of
from goldfold.exporter.passes.rewriting.writer import Writer

NIBBLES = (ir.DataType.INT4, ir.DataType.UINT4)


def pairs(table: ir.Value) -> tuple[np.ndarray, Expr]:
    """uint8 [rows, width/2], two to a byte: the numbers n of a constant [rows, width] of an even
    width, n + 8 if they have a sign; and the derivation of that."""
    tensor = table.const_value
    assert tensor is not None
    rows, width = (int(size) for size in tensor.shape)  # type: ignore[arg-type]
    stored = np.frombuffer(tensor.tobytes(), np.uint8).reshape(rows, width // 2)
    codes = derivation_of(table)
    if table.dtype == ir.DataType.INT4:
        stored = stored ^ 0x88  # n + 8
        codes = Expr("add", (codes, literal(8)))
    return stored, Expr("nibbles", (codes,))


def opened(
    write: Writer, both: ir.Value, kind: np.dtype, constant: Callable[[str, np.ndarray], ir.Value]
) -> ir.Value:
    """[…, width/2, 2]: the two numbers, 0 … 15, of each byte of `both` [… , width/2], which is of
    the floating type `kind`."""
    # Exact in any floating type, where OpenVINO shifts bytes by rounding: high = ⌊b/16⌋
    last = constant("last", np.array([-1], np.int64))
    sixteenth = write("Mul", both, constant("1/16", np.array(1 / 16, kind)), name="parts")
    high = write("Floor", sixteenth, name="high")
    above = write("Mul", high, constant("16", np.array(16, kind)), name="above")
    low = write("Sub", both, above, name="low")
    halves = [write("Unsqueeze", half, last, name=f"{half.name}.1") for half in (low, high)]
    return write("Concat", *halves, name="nibbles", axis=-1)
