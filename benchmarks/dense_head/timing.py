"""Milliseconds of the head alone, factored and fused, and of a whole model beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from dense_head.algebra import Head
from goldfold import load as load_artifact
from goldfold.exporter.passes.docstring import graph
from goldfold.exporter.passes.fuse_identity_dense import FuseIdentityDense

BATCHES = (1, 8, 32)
TOKENS = (8, 128, 2048)
"""A short query, a paragraph, and the longest text that the model reads."""
ROUNDS = 21
"""Odd, so that the median is a measured value."""


def session(head: Head, fuse: bool, dims: int, threads: int) -> onnxruntime.InferenceSession:
    """The head alone, f32, as the exporter writes it; `dims` keeps the first rows of W2."""
    inner, width = head.w1.shape
    model = graph(
        f"""f (float[B,{width}] p, float[{width},{inner}] w1, float[{inner},{dims}] w2)
            => (float[B,{dims}] z)
        {{
            h = MatMul(p, w1)
            z = MatMul(h, w2)
        }}""",
        # A MatMul in ONNX multiplies from the right: [in, out].
        {"w1": head.w1.T, "w2": head.w2[:dims].T},
    )
    if fuse:
        assert FuseIdentityDense().rewrite(model).applied
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def timings(
    head: Head, pooled: np.ndarray, trunk: int, artifact: Path | None, threads: int
) -> dict[str, float]:
    """Median milliseconds by name: three heads by batch, and the whole model if there is one."""
    calls: dict[str, Callable[[], object]] = {}
    heads = {
        "factored": session(head, False, len(head.w2), threads),
        "fused": session(head, True, len(head.w2), threads),
        "fused, first 256": session(head, True, 256, threads),
    }
    for batch in BATCHES:
        rows = pooled[:batch].astype(np.float32)
        for name, one in heads.items():
            calls[f"{name} {batch}"] = lambda one=one, rows=rows: one.run(None, {"p": rows})
    if artifact is not None:
        model = load_artifact(artifact, threads=threads, check=False)
        for tokens in TOKENS[:2]:
            # Which ids they are does not matter for time; 9 up to 10,000 are ordinary tokens.
            ids = np.random.default_rng(0).integers(9, 10_000, size=(1, tokens))
            mask = np.ones_like(ids)
            calls[f"model {tokens}"] = lambda ids=ids, mask=mask: model.run(ids, mask)
    swept = np.ones(trunk, dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            swept.sum()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}
