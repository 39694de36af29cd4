"""The interpreter runs a Program as it stands, weights and all, in ONNX Runtime. No other room of
`exporter` imports ONNX Runtime.

The graph goes to ONNX Runtime as bytes and the weights as arrays beside it, so that nothing is
written to disk and a model never meets the two-gigabyte limit of protobuf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Run
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.evaluate.ort import EXACT
from goldfold.exporter.ir.program import Program, load_small

_INLINE = 1024
"""Constants up to this many bytes stay in the graph, where ONNX Runtime's optimiser reads them."""


class Session:
    """An ONNX Runtime session over a model in memory; its weights are shared, not copied."""

    def __init__(self, model: ir.Model, optimise: bool = True, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: one per core
        options.log_severity_level = 4  # errors are raised, with names as text; no log is needed
        options.add_session_config_entry(*EXACT)
        if not optimise:
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        load_small(model.graph, _INLINE)
        # The arrays that the session reads must live as long as it does.
        self._weights: dict[str, np.ndarray] = {}
        swapped: list[tuple[ir.Value, ir.TensorProtocol]] = []
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            # ONNX Runtime takes no array of 4-bit numbers: they stay in the graph, two per byte.
            if tensor is not None and tensor.nbytes > _INLINE and tensor.dtype.bitwidth >= 8:
                self._weights[name] = np.ascontiguousarray(tensor.numpy())
                swapped.append((value, tensor))
        options.add_external_initializers(
            list(self._weights),
            [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in self._weights.values()],
        )
        try:
            for value, tensor in swapped:
                # A placeholder: ONNX Runtime takes the array beside the graph instead.
                value.const_value = ir.ExternalTensor(
                    "held-in-memory",
                    0,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape([int(d) for d in tensor.shape]),  # type: ignore[arg-type]
                    name=value.name or "",
                )
            graph = ir.to_proto(model).SerializeToString()
        finally:
            for value, tensor in swapped:
                value.const_value = tensor
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=providers)

    def run(self, outputs: Sequence[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names."""
        return [np.asarray(array) for array in self._session.run(list(outputs), feeds)]


def runner(program: Program, optimise: bool = True, threads: int | None = None) -> Run:
    """Returns a callable that runs `program` on token ids and a mask. Raises RewriteError if ONNX
    Runtime refuses the graph."""
    try:
        made = Session(program.model, optimise, threads)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise RewriteError(f"ONNX Runtime refuses the graph: {reason}") from error

    def run(
        input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        return made.run(
            [output or program.contract.output],
            {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask},
        )[0]

    return run
