"""Constants of OpenVINO that share an array's memory: a weight is never copied."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def constant(array: np.ndarray, shape: Sequence[int], kind: ov.Type) -> ov.Node:
    """Returns the numbers of a contiguous array as a constant of a shape and a type; for 4 bits,
    the array has two numbers per byte. The constant does not keep `array` alive."""
    return ops.constant(ov.Tensor(_unlocked(array), list(shape), kind), shared_memory=True)


def _unlocked(array: np.ndarray) -> np.ndarray:
    """Returns a view that calls itself writeable: openvino shares no other, though it never writes
    constants. The view does not keep `array` alive."""
    if array.flags.writeable:
        return array
    memory = (ctypes.c_ubyte * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(memoryview(memory), dtype=array.dtype).reshape(array.shape)
