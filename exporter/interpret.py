"""Run a Program as it stands, weights and all: the only room of `exporter` that imports ONNX Runtime.

The graph goes to ONNX Runtime as bytes and the weights as arrays beside it, so that nothing is written
to disk and the two-gigabyte limit of protobuf is never met.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from exporter.errors import RewriteError
from exporter.program import ATTENTION_MASK, INPUT_IDS, Program, load_small

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(input_ids int64[B,S], attention_mask int64[B,S]) → float32[B,D]."""

_INLINE = 1024
"""Constants up to so many bytes stay in the graph, where ONNX Runtime's optimiser can read them."""


def session(model: ir.Model):  # noqa: ANN201 — an onnxruntime.InferenceSession
    """An ONNX Runtime session over a model in memory; its weights are shared, not copied."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    load_small(model.graph, _INLINE)
    held: list[np.ndarray] = []
    names, values = [], []
    swapped: list[tuple[ir.Value, ir.TensorProtocol]] = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _INLINE:
            continue
        array = np.ascontiguousarray(tensor.numpy())
        held.append(array)
        names.append(value.name)
        values.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
        swapped.append((value, tensor))
    try:
        for value, tensor in swapped:
            # A place-holder: ONNX Runtime takes the array given beside the graph instead.
            value.const_value = ir.ExternalTensor(
                "held-in-memory", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name or ""
            )
        options.add_external_initializers(names, values)
        made = onnxruntime.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    finally:
        for value, tensor in swapped:
            value.const_value = tensor
    made.goldfold_weights = held  # keep what the session reads alive as long as it
    return made


def runner(program: Program) -> Run:
    """A callable that runs `program` on token ids and a mask. Raises RewriteError if ORT refuses it."""
    try:
        made = session(program.model)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RewriteError(f"ONNX Runtime refuses the graph: {reason}") from error

    def run(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        return made.run([program.contract.output], {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask})[0]

    return run
