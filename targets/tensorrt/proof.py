"""The proof, without a GPU, that an engine holds the weights of its ONNX: they are found in its
bytes.

TensorRT for RTX stores a weight as it stands in the graph, or beside others of the same height when
it merges matrix products that read the same value: then each row is found whole, at a constant
distance from the last. A weight that was silently widened, narrowed or lost is found nowhere.

Integers stay integers, one byte per number of 8 bits and two numbers of 4 bits per byte, and are
found as such. Those of 4 bits in blocks are stored transposed, scales and all. For a product of
integers with integers the engine holds one number per channel: the scale of the weights times the
step of the activations.
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import constant
from goldfold.exporter.passes.rewriting.integers import multiplies_integers
from goldfold.exporter.passes.rewriting.pattern import producer
from goldfold.targets.tensorrt import cuts

LEAST = 4096
"""Smaller weights are not looked for: a gain of all ones stands in many places."""

INTEGERS = (ir.DataType.INT8, ir.DataType.INT4)

_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
_PASSING = dialect.moving("shape", "cast") | {"DequantizeLinear", "QuantizeLinear"}
"""Ops between a weight and the op that takes a part of it."""

_ROW = 32
"""Bytes of a row that can be told from others."""
_PROBE = 256
_SAMPLE = 9
_CANDIDATES = 64
_AXES = 4
"""Maximum axes of weights that are looked for in any order of their axes."""

Twin = Callable[[Sequence[str]], tuple[Path, Path]]
"""Builds a second engine with the weights of these names turned (targets/tensorrt/twin.py); returns
the engine and its ONNX file."""


@dataclass(frozen=True)
class Holding:
    """The weights that were found in an engine."""

    engine: int
    """Bytes of the engine."""
    weights: int
    """Bytes of all weights looked for."""
    missing: tuple[tuple[str, int], ...]
    """Name and bytes of the weights not found, the largest first."""
    integers: int = 0
    """Bytes of the weights that are integers."""
    pieces: Mapping[str, Sequence[cuts.Piece]] = field(default_factory=dict)
    """The places of weights that were found by a twin, by name."""

    @property
    def found(self) -> int:
        return self.weights - sum(size for _, size in self.missing)

    def fault(self, profiles: int) -> str | None:
        """Returns why the engine does not hold the weights of its ONNX; None if it does.

        Every weight must be there. The other bytes are kernel code, of which builds show 5 to 9 MB
        per profile: 16 are allowed.
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


def look(engine: Path, onnx_file: Path, twin: Twin | None = None) -> Holding:
    """Look for every weight of `onnx_file` in `engine`, bit by bit.

    `twin` serves for weights that stand neither whole nor in rows, which without a twin are
    missing; and for weights of which the graph takes parts: a compiler may store these in another
    order, and then a weight that stands there whole is another one.
    """
    weights = weights_of(ir.load(onnx_file))
    raw = _mapped(engine)
    held = np.frombuffer(raw, dtype=np.uint8)
    missing = {
        name: value
        for name, value in weights.items()
        if (twin is not None and is_cut(value))
        or not any(_stands(raw, held, lines) for lines in _forms(value))
    }
    pieces: dict[str, Sequence[cuts.Piece]] = {}
    if missing and twin is not None:
        other, other_file = twin(tuple(weights))
        turned, twins = weights_of(ir.load(other_file)), cuts.Twins.of(raw, _mapped(other))
        for name, value in list(missing.items()):
            if (found := _in_pieces(twins, value, turned[name])) is not None:
                pieces[name] = found
                del missing[name]
    sizes = {name: int(_tensor(value).nbytes) for name, value in weights.items()}
    integers = sum(n for name, n in sizes.items() if _tensor(weights[name]).dtype in INTEGERS)
    lost = sorted(((name, sizes[name]) for name in missing), key=lambda entry: -entry[1])
    return Holding(len(raw), sum(sizes.values()), tuple(lost), integers, pieces)


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def weights_of(model: ir.Model) -> dict[str, ir.Value]:
    """Returns the weights to look for, by name."""
    return {
        name: value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.nbytes >= LEAST
        and _is_weight(value.const_value)
    }


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None
    return value.const_value


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    """Returns whether the numbers take part in arithmetic. Positions and token types only index
    lookups, and a compiler that computes those beforehand keeps none of them."""
    return tensor.dtype.is_floating_point() or tensor.dtype in INTEGERS


def is_cut(weight: ir.Value) -> bool:
    """Returns whether the graph takes fixed parts of a weight, or of its product: queries, keys and
    values of one product, the halves of a gated one, an expert."""
    waiting, seen = [(weight, False)], {weight}
    while waiting:
        value, multiplied = waiting.pop()
        for node, _ in value.uses():
            if node.domain:
                continue
            if node.op_type in dialect.PARTS and value is node.inputs[0] and _is_fixed(node):
                return True
            product = node.op_type in _PRODUCTS
            biased = node.op_type == "Add" and any(constant(v) is not None for v in node.inputs)
            if (product and not multiplied) or biased or node.op_type in _PASSING:
                outputs = [v for v in node.outputs if v not in seen]
                waiting += [(v, multiplied or product) for v in outputs]
                seen.update(outputs)
    return False


def _is_fixed(part: ir.Node) -> bool:
    """Returns whether a Split, Slice or Gather always takes the same part."""
    return all(value is None or constant(value) is not None for value in part.inputs[1:])


def _in_pieces(twins: cuts.Twins, value: ir.Value, turned: ir.Value) -> list[cuts.Piece] | None:
    """Returns the pieces in which an engine holds a weight, its axes in any order; and a scale as
    it is, if the engine did not choose to hold its product with a step."""
    ways, others = (
        itertools.chain(_forms(v), _transposed(v), [_laid(_tensor(v))]) for v in (value, turned)
    )
    for lines, other in zip(ways, others, strict=True):
        if (found := cuts.cut(twins, cuts.Lines(lines, other))) is not None:
            return found
    return None


def _forms(value: ir.Value) -> Iterator[np.ndarray]:
    """Yields the bytes of a weight as an engine may hold it, one line per row."""
    tensor = _tensor(value)
    reader, index = next(iter(value.uses()), (None, 0))
    if reader is None or reader.op_type != "DequantizeLinear":
        lines = _laid(tensor)
        if len(lines) > 1 and lines.shape[1] < _ROW:
            yield lines.reshape(1, -1)  # one per token: its bytes stand in many places
        yield lines
        return
    if index == 1 and (step := _step(reader.outputs[0])) is not None:
        # fp16 holds both numbers: 11 bits times 11 bits, which fp32 has exactly.
        yield _laid(ir.tensor(tensor.numpy().astype(np.float32) * step))
        return
    yield _laid(tensor)
    if "block_size" in reader.attributes and len(tensor.shape) == 2:
        turned = np.ascontiguousarray(tensor.numpy().T)
        yield _laid(ir.tensor(turned, dtype=tensor.dtype))


def _transposed(value: ir.Value) -> Iterator[np.ndarray]:
    """Yields the bytes of a weight with its axes in every other order: columns of a Gemm, and the
    kernels of a convolution, may be stored so."""
    tensor = _tensor(value)
    numbers = tensor.numpy().squeeze()
    if numbers.ndim > _AXES:
        return
    for axes in itertools.permutations(range(numbers.ndim)):
        if axes != tuple(sorted(axes)):
            turned = np.ascontiguousarray(numbers.transpose(axes))
            yield _laid(ir.tensor(turned, dtype=tensor.dtype))


def _step(weight: ir.Value) -> np.float32 | None:
    """Returns the step of the integers with which `weight` is multiplied; None if it meets no
    integers."""
    reader, _ = next(iter(weight.uses()), (None, 0))
    if reader is None or not multiplies_integers(reader):
        return None
    x = producer(reader.inputs[0], "DequantizeLinear")
    step = None if x is None else constant(x.inputs[1])
    return None if step is None else np.float32(step)


def _laid(tensor: ir.TensorProtocol) -> np.ndarray:
    """Returns the bytes as they lie in a file, two numbers per byte for int4, which numpy would
    spread; one line per row."""
    shape = [int(size) for size in tensor.shape]  # type: ignore[arg-type]
    rows = math.prod(shape[:-1])
    if tensor.dtype.bitwidth < 8:
        rows = rows if shape[-1] % 2 == 0 else 1  # else rows begin inside a byte
        return np.frombuffer(tensor.tobytes(), dtype=np.uint8).reshape(rows, -1)
    return np.ascontiguousarray(tensor.numpy()).view(np.uint8).reshape(rows, -1)


def _stands(raw: mmap.mmap, held: np.ndarray, lines: np.ndarray) -> bool:
    """Returns whether a weight stands in the engine as a whole, or row by row at one distance."""
    rows, width = lines.shape
    if (number := cuts.pattern(lines)) is not None:
        # Zeros stand everywhere: only the twin tells whether they are a weight's.
        return any(number) and any(True for _ in cuts.stretches(held, number, lines.size))
    middle = _telling(lines)
    for start in _places(raw, lines[middle]):
        begin = start - middle * width
        if 0 <= begin <= held.size - lines.size and np.array_equal(
            held[begin : begin + lines.size], lines.reshape(-1)
        ):
            return True
        if rows > 1 and _stands_in_rows(raw, held, lines, middle, start):
            return True
    return False


def _stands_in_rows(
    raw: mmap.mmap, held: np.ndarray, lines: np.ndarray, middle: int, start: int
) -> bool:
    """Returns whether all rows stand at one distance, row `middle` at `start`."""
    count, width = lines.shape
    stride = raw.find(lines[middle + 1].tobytes(), start + width) - start
    begin = start - middle * stride
    if stride < width or begin < 0 or begin + stride * (count - 1) + width > held.size:
        return False
    laid = np.lib.stride_tricks.as_strided(held[begin:], (count, width), (stride, 1))
    return bool(np.array_equal(laid, lines))


def _telling(lines: np.ndarray) -> int:
    """Returns a row, not the last of several, whose bytes differ from each other: a table of
    cosines begins with ones, and rows of tokens that were never trained are zeros."""
    rows = np.unique(np.linspace(0, max(0, len(lines) - 2), _SAMPLE).astype(np.int64))
    return int(max(rows, key=lambda row: len(np.unique(lines[row, :_PROBE]))))


def _places(raw: mmap.mmap, line: np.ndarray):
    """Returns the possible places of a row: the first places of its first bytes."""
    probe = line[:_PROBE].tobytes()
    at = raw.find(probe)
    for _ in range(_CANDIDATES):
        if at < 0:
            return
        yield at
        at = raw.find(probe, at + 1)
