"""Constants that stay integers in the weight file, behind an op that dequantizes them.

The op is `constexpr_blockwise_shift_scale` (iOS 18), or `constexpr_affine_dequantize` where an
earlier system is requested and suffices: 8 bits, one scale or one per channel. Core ML opens the
constants when it loads the model, or while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

BLOCKS = "constexpr_blockwise_shift_scale"
CHANNELS = "constexpr_affine_dequantize"


@dataclass(frozen=True)
class Integers:
    """A constant as integers: scale · (numbers − offset), each number of `scale` for a block."""

    numbers: np.ndarray
    scale: np.ndarray
    """The scales, with as many axes as `numbers`."""
    offset: np.ndarray | None
    """The offsets, as `scale`; None is 0."""
    name: str
    """A name that nothing else of the program has."""

    @property
    def plain(self) -> bool:
        """Whether the numbers have 8 bits, with one scale or one along one axis."""
        several = [axis for axis, size in enumerate(self.scale.shape) if size > 1]
        whole = all(self.scale.shape[axis] == self.numbers.shape[axis] for axis in several)
        return str(self.numbers.dtype) in ("int8", "uint8") and len(several) < 2 and whole

    def turned(self) -> Integers:
        """Returns the transposed constant: views."""
        offset = None if self.offset is None else self.offset.T
        return Integers(self.numbers.T, self.scale.T, offset, f"{self.name} transposed")


class Emits(Protocol):
    """The part of lowering.Emit that writes integers."""

    def __call__(self, op: str, part: str | None = None, **inputs: Any) -> Any: ...
    def constant(self, array: np.ndarray, label: str, weight: str | None = None) -> Any: ...
    def shared(self, key: Any, make: Callable[[], Any]) -> Any: ...
    def has(self, op: str) -> bool: ...


def opened(emit: Emits, held: Integers) -> Any:
    """Returns scale · (numbers − offset) as a MIL var, written once per function."""
    return emit.shared(("integers", held.name), lambda: _write(emit, held))


def _write(emit: Emits, held: Integers) -> Any:
    data = emit.constant(_stored(held.numbers), "numbers", f"{held.name} numbers")
    if not emit.has(BLOCKS) and held.plain:
        return _affine(emit, held, data)
    given = {"data": data, "scale": emit.constant(held.scale, "scale", f"{held.name} scale")}
    if held.offset is not None:
        given["offset"] = emit.constant(_stored(held.offset), "offset", f"{held.name} offset")
    return emit(BLOCKS, "opened", **given)


def _affine(emit: Emits, held: Integers, data: Any) -> Any:
    axis = next((a for a, size in enumerate(held.scale.shape) if size > 1), 0)
    scale = held.scale.reshape(-1)
    zero = np.zeros(scale.shape, held.numbers.dtype) if held.offset is None else held.offset
    return emit(
        CHANNELS, "opened", quantized_data=data,
        scale=emit.constant(scale, "scale", f"{held.name} scale"),
        zero_point=emit.constant(zero.reshape(-1), "zero", f"{held.name} zero"), axis=axis,
    )  # fmt: skip


def _stored(array: np.ndarray) -> np.ndarray:
    """Returns the integers in the type by which coremltools knows them; for 4 bits, still one
    number per byte."""
    from coremltools.converters.mil.mil.types import type_mapping

    word = str(array.dtype)
    if word in ("int8", "uint8"):
        return array
    wide = array.astype(np.int8 if word == "int4" else np.uint8)
    return wide.astype(type_mapping.string_to_nptype(word))
