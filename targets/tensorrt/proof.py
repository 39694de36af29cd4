"""Whether an engine holds the weights that its ONNX says, found without a GPU: in its bytes.

TensorRT for RTX lays a weight down as it stands in the graph, or beside others of the same height
when it merges matrix products that read the same value: then each row is found whole, at a constant
distance from the last. A weight that was silently widened, narrowed or lost is found nowhere.

Integers stay integers, of 8 bits a byte each, of 4 bits two to a byte, and are so found. Those of 4
bits in blocks are laid down transposed, scales and all. Of a product of integers with integers the
engine holds one number a channel: the scale of the weights times the step of what is read.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.passes.integers import multiplies_integers
from exporter.passes.pattern import producer
from exporter.program import constant

LEAST = 4096
"""Smaller weights are not looked for: a gain of all ones stands in many places."""

INTEGERS = (ir.DataType.INT8, ir.DataType.INT4)

_ROW = 32
"""Bytes of a row that can be told from others."""
_PROBE = 256
_CANDIDATES = 64


@dataclass(frozen=True)
class Holding:
    """What was found of the weights in an engine."""

    engine: int
    """Bytes of the engine."""
    weights: int
    """Bytes of all weights looked for."""
    missing: tuple[tuple[str, int], ...]
    """Name and bytes of those not found, the largest first."""
    integers: int = 0
    """Bytes of those weights that are integers."""

    @property
    def found(self) -> int:
        return self.weights - sum(size for _, size in self.missing)

    def fault(self, profiles: int) -> str | None:
        """Why the engine does not hold what its ONNX says; None if it does.

        Every weight must be there. What is no weight is kernel code, of which builds show 5 to 9 MB
        a profile: 16 are allowed.
        """
        if self.missing:
            name, size = self.missing[0]
            return (
                f"of its weights' {self.weights:,} bytes the engine holds {self.found:,}; "
                f"missing are {len(self.missing)}, first {name} ({size:,} bytes)"
            )
        rest = self.engine - self.weights
        if rest > profiles * 16e6:
            return f"{rest:,} bytes of the engine are neither weights nor code"
        return None


def look(engine: Path, onnx_file: Path) -> Holding:
    """Look for every weight of `onnx_file` in `engine`, bit by bit."""
    model = ir.load(onnx_file)
    missing, total, integers = [], 0, 0
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        held = np.frombuffer(raw, dtype=np.uint8)
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < LEAST or not _is_weight(tensor):
                continue
            size = int(tensor.nbytes)
            total += size
            integers += size if tensor.dtype in INTEGERS else 0
            if not any(_stands(raw, held, *form) for form in _forms(value, tensor)):
                missing.append((name, size))
        size = len(raw)
        del held
    missing.sort(key=lambda entry: -entry[1])
    return Holding(size, total, tuple(missing), integers)


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    """Whether numbers are computed with. Positions and types of tokens are looked up with, and a
    compiler that works them out beforehand keeps none of them."""
    return tensor.dtype.is_floating_point() or tensor.dtype in INTEGERS


def _forms(value: ir.Value, tensor: ir.TensorProtocol) -> Iterator[tuple[np.ndarray, int]]:
    """The bytes of a weight as an engine may hold it, and how many rows they are."""
    reader, index = next(iter(value.uses()), (None, 0))
    if reader is None or reader.op_type != "DequantizeLinear":
        bytes_, rows = _laid(tensor)
        if rows > 1 and len(bytes_) // rows < _ROW:
            yield bytes_, 1  # a scale a token: the bytes of one stand in too many places
        yield bytes_, rows
        return
    if index == 1 and (step := _step(reader.outputs[0])) is not None:
        # Both are numbers that fp16 holds: 11 bits times 11 bits, which f32 has exactly.
        yield _laid(ir.tensor(tensor.numpy().astype(np.float32) * step))
        return
    yield _laid(tensor)
    if "block_size" in reader.attributes and len(tensor.shape) == 2:
        turned = np.ascontiguousarray(tensor.numpy().T)
        yield _laid(ir.tensor(turned, dtype=tensor.dtype))


def _step(weight: ir.Value) -> np.float32 | None:
    """The step of the integers that `weight` is multiplied with; None if it meets no integers."""
    reader, _ = next(iter(weight.uses()), (None, 0))
    if reader is None or not multiplies_integers(reader):
        return None
    x = producer(reader.inputs[0], "DequantizeLinear")
    step = None if x is None else constant(x.inputs[1])
    return None if step is None else np.float32(step)


def _laid(tensor: ir.TensorProtocol) -> tuple[np.ndarray, int]:
    """The bytes as they lie in a file, two numbers to one for int4, which numpy would spread; and
    how many rows they are."""
    rows = int(tensor.shape[0]) if len(tensor.shape) == 2 else 1  # type: ignore[arg-type]
    if tensor.dtype.bitwidth < 8:
        return np.frombuffer(tensor.tobytes(), dtype=np.uint8), rows
    return np.ascontiguousarray(tensor.numpy()).view(np.uint8).reshape(-1), rows


def _stands(raw: mmap.mmap, held: np.ndarray, weight: np.ndarray, rows: int) -> bool:
    """Whether `weight` (bytes) stands in the engine as a whole, or row by row at one distance."""
    lines = weight.reshape(rows, -1)
    width = lines.shape[1]
    # The middle row: a table of cosines begins with ones, and many a table with zeros.
    middle = (rows - 1) // 2
    for start in _places(raw, lines[middle]):
        begin = start - middle * width
        if 0 <= begin <= held.size - weight.size and np.array_equal(
            held[begin : begin + weight.size], weight
        ):
            return True
        if rows > 1 and _stands_in_rows(raw, held, lines, middle, start):
            return True
    return False


def _stands_in_rows(
    raw: mmap.mmap, held: np.ndarray, lines: np.ndarray, middle: int, start: int
) -> bool:
    """Whether all rows stand at one distance, row `middle` at `start`."""
    count, width = lines.shape
    stride = raw.find(lines[middle + 1].tobytes(), start + width) - start
    begin = start - middle * stride
    if stride < width or begin < 0 or begin + stride * (count - 1) + width > held.size:
        return False
    laid = np.lib.stride_tricks.as_strided(held[begin:], (count, width), (stride, 1))
    return bool(np.array_equal(laid, lines))


def _places(raw: mmap.mmap, line: np.ndarray):
    """Where a row may begin: the first places of its first bytes."""
    probe = line[:_PROBE].tobytes()
    at = raw.find(probe)
    for _ in range(_CANDIDATES):
        if at < 0:
            return
        yield at
        at = raw.find(probe, at + 1)
