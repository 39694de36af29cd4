"""The runtime of `model.onnx`; ONNX Runtime memory-maps the weights."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract
from goldfold.exporter.errors import ArtifactError, TargetError
from goldfold.exporter.evaluate.ort import EXACT
from goldfold.exporter.ir.protobuf import MODEL
from goldfold.exporter.system.files import cores
from goldfold.targets.base import Run
from goldfold.targets.onnxruntime import too_old


def load(folder: Path, contract: Contract, threads: int | None, streams: int | None = None) -> Run:
    """Returns a callable over an InferenceSession on the CPU. Raises ArtifactError if ORT refuses
    the file, TargetError if it is too old for the file.

    A session computes every caller in its own thread, with the help of a pool of `threads` that all
    callers share; with `streams`, the pool is smaller, so that this many callers fill the cores.
    """
    if streams:
        threads = max(1, (threads or cores()) // streams)
    session = open_file(folder / MODEL, threads)
    known = {found.name for found in session.get_outputs()}
    for name in contract.outputs:
        if name not in known:
            raise ArtifactError(f"{folder / MODEL} has no output {name[:80]}; export it again")

    def run(
        input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        feeds = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
        return np.asarray(session.run([output or contract.output], feeds)[0])

    return run


def census(folder: Path) -> dict[str, int]:
    """Returns node counts by op after ONNX Runtime's own optimisation: the ops that really run."""
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        open_file(folder / MODEL, None, optimised)
        graph = onnx.load(optimised, load_external_data=False).graph
    counts: dict[str, int] = {}
    for node in graph.node:
        op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        counts[op] = counts.get(op, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def open_file(path: Path, threads: int | None, optimised: Path | None = None):
    """Returns an InferenceSession on the CPU. Raises ArtifactError if ORT refuses the file,
    TargetError if the package cannot be imported."""
    try:
        import onnxruntime
    except Exception as error:  # built for numpy 1, it fails in more ways than one
        said = f"the package onnxruntime {version('onnxruntime')} cannot be imported here"
        raise TargetError(f"{said}; install a newer one, which knows this numpy") from error

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised and reported; its log would print raw names
    options.add_session_config_entry(*EXACT)
    if threads:
        options.intra_op_num_threads = threads
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
        # Otherwise it writes the weights into the file as well, beyond protobuf's two gigabytes.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimised.data"
        )
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if (said := too_old.sentence(path, onnxruntime)) is not None:
            raise TargetError(said) from error
        reason = (str(error).splitlines() or [""])[0]
        raise ArtifactError(f"ONNX Runtime refuses {path}: {reason}") from error
