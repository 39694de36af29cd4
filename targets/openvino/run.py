"""The runtime of `openvino_model.xml`: compiled and run on the CPU, at open shapes or at the file's
static ones.

The inference precision is always explicit: by default OpenVINO computes in bf16 on a machine with
AMX, and a file of f32 then gives bf16's results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract
from goldfold.exporter.errors import ArtifactError
from goldfold.targets.base import Run
from goldfold.targets.openvino import markup
from goldfold.targets.openvino.model_file import GROUP, XML, group
from goldfold.targets.openvino.options import HINTS
from goldfold.targets.openvino.shapes import Infer, Shapes, padded
from goldfold.targets.pool import Pool


def hint(precision: str) -> tuple[str, bool]:
    """Returns the hint to give on this machine, and whether the CPU then computes in `precision`.

    Asked for f16, a CPU without avx512_fp16 but with bf16 silently computes in bf16, which is eight
    times coarser; f32 is the honest stand-in there.
    """
    name, capability = HINTS[precision]
    able = capability in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return (name, True) if able else ("f32", False)


def load(
    folder: Path,
    contract: Contract,
    precision: str,
    threads: int | None,
    streams: int | None = None,
    groups: bool = True,
) -> Run:
    """Returns a callable over one pool of infer requests per shape, for any number of threads.

    One compiled model computes as many callers at once as it has `streams`, which divide `threads`
    among them; None means one stream, so that a single caller has every core. Without `groups`, no
    activation is rounded where the file only allows it.
    """
    model = _read(folder)
    known = set[str]().union(*(port.get_names() for port in model.outputs))
    for name in contract.outputs:
        if name not in known:
            raise ArtifactError(f"{folder / XML} has no output {name[:80]}; export it again")
    shapes = Shapes.of(model)

    def infer(length: int) -> Infer:
        own = model if shapes == Shapes() else shapes.reshaped(model, length)
        compiled = _compile(own, folder, precision, threads, streams, groups)
        # All at once, since making one waits for the calls that run. Two per stream: the next
        # caller waits inside the plugin, which hands a stream on without Python.
        at_once = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        pool = Pool(compiled.create_infer_request, 2 * at_once)

        def at_shape(ids: np.ndarray, mask: np.ndarray, output: str) -> np.ndarray:
            feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}

            def infer_with(request: ov.InferRequest) -> np.ndarray:
                # Copied while the request is ours: its next call overwrites this result.
                return np.array(request.infer(feeds, share_inputs=True)[output], dtype=np.float32)

            return pool.use(infer_with)

        return at_shape

    call = infer(0) if shapes == Shapes() else padded(shapes, infer, contract.pad_id)

    def run(
        input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        return call(input_ids, attention_mask, output or contract.output)

    return run


def census(folder: Path) -> dict[str, int]:
    """Returns kernels of the compiled model by layer type, most frequent first."""
    compiled = _compile(_read(folder), folder, "fp32", None)
    counts: dict[str, int] = {}
    for op in compiled.get_runtime_model().get_ordered_ops():
        name = str(op.get_rt_info()["layerType"].astype(str))
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _read(folder: Path) -> ov.Model:
    markup.check(folder / XML)
    try:
        return ov.Core().read_model(folder / XML)
    except Exception as error:
        raise _refused(folder, error) from error


def _compile(
    model: ov.Model,
    folder: Path,
    precision: str,
    threads: int | None,
    streams: int | None = None,
    groups: bool = True,
) -> ov.CompiledModel:
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint(precision)[0],
        "PERFORMANCE_HINT": "LATENCY",
        # By default it rounds the activations that meet integer weights: docs/quantization.md.
        GROUP: group(model) if groups else "0",
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    if streams:
        options["NUM_STREAMS"] = streams
    try:
        return ov.Core().compile_model(model, "CPU", options)
    except Exception as error:
        raise _refused(folder, error) from error


def _refused(folder: Path, error: Exception) -> ArtifactError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ArtifactError(f"OpenVINO refuses {folder / XML}: {(lines or [''])[-1]}")
