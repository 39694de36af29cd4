"""The twin, a second engine to compare with: the same graph, compiled the same way, with the last
bit of every number of its weights flipped.

Equal weights stay equal, scales stay positive and no value moves by more than its last digit, so
the compiler stores the same layout at the same places; only the numbers differ. They differ where
the weights are (targets/tensorrt/cuts.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from goldfold.exporter.errors import OutputError
from goldfold.exporter.ir import onnx_file


def turn(source: Path, folder: Path, weights: Iterable[str]) -> Path:
    """Write the ONNX file of `source`'s folder into `folder` once more, the last bit of each number
    of `weights` flipped; returns its path.

    Raises OutputError where the disk is full.
    """
    model = ir.load(source)
    data = folder / onnx_file.DATA
    try:
        shutil.copyfile(source, folder / onnx_file.MODEL)
        shutil.copyfile(source.parent / onnx_file.DATA, data)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; make room") from error
    for name in weights:
        tensor = model.graph.initializers[name].const_value
        if not isinstance(tensor, ir.ExternalTensor) or tensor.length is None:
            continue
        held = np.memmap(data, np.uint8, "r+", tensor.offset or 0, (tensor.length,))
        if tensor.dtype.bitwidth < 8:
            held ^= 0x11  # two numbers to a byte
        else:
            held[:: tensor.dtype.bitwidth // 8] ^= 1  # ONNX's files are little-endian
        held.flush()
    return folder / onnx_file.MODEL
