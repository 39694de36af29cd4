"""One side of a comparison, in a process of its own: loads once, then answers timing requests.

    python benchmarks/speed/worker.py '{"kind": "openvino", "path": "...", ...}'

Each line on standard input is a JSON object with "do"; each answer is one line of JSON. It runs in
goldfold's environment and in those of the peers, so it imports nothing of ours at the top, and each
peer only in the function that loads it.

Inputs are made here from a seed, so that only numbers cross the pipe. A side is a callable
`(ids, mask) → [B, D]`, and an `encode(texts)` that is the side's own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
Encode = Callable[[list[str], int], np.ndarray]

SPIN = 0.02
"""Seconds to wait before a turn, so that the threads of the side before it have gone to sleep."""


@dataclass
class Side:
    """What was loaded. `flock(calls, ids, mask)` runs several calls at once, where that exists;
    `ways()` says how batches were computed, where there is a choice."""

    run: Run
    encode: Encode | None = None
    flock: Callable[[int, np.ndarray, np.ndarray], None] | None = None
    compiled: Any = None
    profile: Callable[[], list[Any]] | None = None
    texts: Callable[[int, int], list[str]] | None = None
    """For a side that tokenizes itself: texts of a batch and a number of tokens."""
    ways: Callable[[], dict[str, str]] | None = None


def load_openvino(spec: dict[str, Any]) -> Side:
    """An IR file by itself: ours, or optimum-intel's export of the whole pipeline."""
    import openvino as ov

    core = ov.Core()
    if spec.get("cache"):
        core.set_property({"CACHE_DIR": spec["cache"]})
    compiled = core.compile_model(spec["xml"], "CPU", _hints(spec))
    output = next(port for port in compiled.outputs if "sentence_embedding" in port.get_names())
    request = compiled.create_infer_request()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feeds = {"input_ids": ids, "attention_mask": mask}
        return np.array(request.infer(feeds, share_inputs=True)[output], dtype=np.float32)

    def flock(calls: int, ids: np.ndarray, mask: np.ndarray) -> None:
        queue = ov.AsyncInferQueue(compiled, 0)
        for _ in range(calls):
            queue.start_async({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        queue.wait_all()

    profile = request.get_profiling_info if spec.get("profile") else None
    return Side(run, _encoder_of(spec, run), flock, compiled, profile)


def _encoder_of(spec: dict[str, Any], run: Run) -> Encode | None:
    """The encode that belongs to the file: goldfold's Encoder, or OVSentenceTransformer's."""
    if spec.get("artifact"):
        from goldfold.exporter.artifact.bundle import open_bundle
        from goldfold.exporter.artifact.encoder import Encoder

        encoder = Encoder(
            open_bundle(Path(spec["artifact"]), check_files=False),
            lambda ids, mask, output=None: run(ids, mask),
        )
        return lambda texts, size: encoder.embed(texts, prompt="", batch_size=size)
    if spec.get("optimum"):
        from optimum.intel import OVSentenceTransformer  # pyright: ignore[reportMissingImports]

        made: list[Any] = []  # opened at the first use: most runs only time the graph

        def encode(texts: list[str], size: int) -> np.ndarray:
            if not made:
                model = OVSentenceTransformer.from_pretrained(
                    spec["optimum"], ov_config=_hints(spec)
                )
                made.append(model)
            return made[0].encode(texts, batch_size=size)

        return encode
    return None


def load_onnxruntime(spec: dict[str, Any]) -> Side:
    """An ONNX file in a session of no options but threads: ours, or a peer's of the transformer
    alone, whose tokens then go through the mean, the model's dense layers and the norm in NumPy."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    session = onnxruntime.InferenceSession(spec["onnx"], options, ["CPUExecutionProvider"])
    inputs = [port.name for port in session.get_inputs()]
    outputs = [port.name for port in session.get_outputs()]
    output = next((n for n in outputs if n == "sentence_embedding"), outputs[0])
    dense = [_weights(Path(folder)) for folder in spec.get("dense", ())]

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        known = {"input_ids": ids, "attention_mask": mask}
        feeds = {name: known.get(name, np.zeros_like(ids)) for name in inputs}
        found = session.run([output], feeds)[0]
        return np.asarray(found if output == "sentence_embedding" else _pooled(found, mask, dense))

    return Side(run, _encoder_of(spec, run))


Dense = tuple[np.ndarray, np.ndarray]
"""Weights [in, out] and bias [out] of a layer without an activation."""


def _weights(folder: Path) -> Dense:
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text("utf-8"))
    if not config["activation_function"].endswith("Identity"):
        raise ValueError(f"{folder} has an activation, which NumPy's tail does not know")
    found = load_file(folder / "model.safetensors")
    weight = found["linear.weight"].astype(np.float32).T
    bias = found.get("linear.bias", np.zeros(weight.shape[1]))
    return weight, bias.astype(np.float32)


def _pooled(tokens: Any, mask: np.ndarray, dense: list[Dense]) -> np.ndarray:
    """The normalized mean [B, D] of the real tokens of [B, S, D], through the dense layers."""
    tokens = np.asarray(tokens)
    weights = mask[:, None, :].astype(tokens.dtype)
    found = np.matmul(weights, tokens)[:, 0] / weights.sum(axis=2)
    for weight, bias in dense:
        found = found @ weight + bias
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def load_sentence_transformers(spec: dict[str, Any]) -> Side:
    """sentence-transformers on one of its backends: torch, openvino or onnx."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(spec["threads"])
    backend = spec["backend"]
    options: dict[str, Any] = {}
    if backend == "torch":
        options["torch_dtype" if spec.get("old") else "dtype"] = getattr(torch, spec["dtype"])
    elif backend == "openvino":
        options["ov_config"] = _hints(spec)
    else:
        import onnxruntime

        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = spec["threads"]
        options |= {"provider": "CPUExecutionProvider", "session_options": session}
        options |= {"file_name": spec["file_name"]} if "file_name" in spec else {}
    model = SentenceTransformer(spec["path"], device="cpu", backend=backend, model_kwargs=options)
    model.eval()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            feeds = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            return model(feeds)["sentence_embedding"].float().numpy()

    def encode(texts: list[str], size: int) -> np.ndarray:
        return model.encode(texts, batch_size=size)

    inner: Any = model[0]
    found = getattr(getattr(inner, "auto_model", None), "request", None)
    compiled = found if backend == "openvino" and hasattr(found, "get_runtime_model") else None
    return Side(run, encode, None, compiled)


def load_artifact(spec: dict[str, Any]) -> Side:
    """An artifact of ours, of any target, as `goldfold.load` opens it but for the digests."""
    from goldfold.exporter.artifact.bundle import open_bundle
    from goldfold.exporter.artifact.encoder import open_encoder

    bundle = open_bundle(Path(spec["artifact"]), check_files=False, unverified=True)
    encoder = open_encoder(bundle, spec["threads"])
    return Side(encoder.run, lambda texts, size: encoder.embed(texts, prompt="", batch_size=size))


def load_llama(spec: dict[str, Any]) -> Side:
    """A GGUF file in llama.cpp."""
    from benchmarks.speed import llama

    context = llama.load(spec)
    return Side(context.run, ways=context.ways)


def load_fastembed(spec: dict[str, Any]) -> Side:
    """An ONNX file in fastembed, which takes texts and no token ids."""
    from benchmarks.speed import fast_embed

    encode, made = fast_embed.load(spec)

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        raise ValueError("fastembed takes texts, not token ids")

    return Side(run, encode, texts=made)


def load_matmul(spec: dict[str, Any]) -> Side:
    """x[B,K] · W[K,N] in OpenVINO and nothing else: what the machine itself can do."""
    import openvino as ov
    from openvino import opset13 as ops

    inner, outer = spec["inner"], spec["outer"]
    drawn = np.random.default_rng(0).standard_normal(4099, dtype=np.float32)
    weight = np.resize(drawn, (outer, inner))  # drawing all takes seconds, and tells no more
    x = ops.parameter([-1, inner], np.float32, "x")
    product = ops.matmul(x, ops.constant(weight), False, True)
    model = ov.Model([product], [x])  # pyright: ignore[reportGeneralTypeIssues]
    compiled = ov.Core().compile_model(model, "CPU", _hints(spec))
    request = compiled.create_infer_request()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return request.infer({0: ids}, share_inputs=True, share_outputs=True)[0]

    profile = request.get_profiling_info if spec.get("profile") else None
    return Side(run, None, None, compiled, profile)


def _hints(spec: dict[str, Any]) -> dict[str, Any]:
    hints = {
        "INFERENCE_PRECISION_HINT": spec.get("precision", "f32"),
        "PERFORMANCE_HINT": spec.get("hint", "LATENCY"),
        "INFERENCE_NUM_THREADS": spec["threads"],
    }
    # Only where it is asked for: counting costs time at every layer.
    return hints | ({"PERF_COUNT": True} if spec.get("profile") else {})


LOADERS: dict[str, Callable[[dict[str, Any]], Side]] = {
    "openvino": load_openvino,
    "onnxruntime": load_onnxruntime,
    "sentence-transformers": load_sentence_transformers,
    "artifact": load_artifact,
    "llama": load_llama,
    "fastembed": load_fastembed,
    "matmul": load_matmul,
}


def inputs(batch: int, tokens: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids of no special token, all real: [batch, tokens] int64, and a mask of ones."""
    ids = np.random.default_rng(0).integers(4, vocabulary, (batch, tokens), dtype=np.int64)
    return ids, np.ones_like(ids)


def time_calls(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of each of `calls` calls, after `warm` untimed ones."""
    if "rows" in asked:
        x = np.random.default_rng(1).standard_normal((asked["rows"], asked["inner"]), np.float32)
        ids, mask = x, x
    else:
        ids, mask = inputs(asked["batch"], asked["tokens"], asked["vocabulary"])
    time.sleep(SPIN)
    if asked.get("flock"):
        if side.flock is None:
            raise ValueError("this side cannot run several calls at once")
        side.flock(asked["warm"], ids, mask)
        started = time.perf_counter()
        side.flock(asked["calls"], ids, mask)
        return {"ms": [1e3 * (time.perf_counter() - started) / asked["calls"]]}
    call = _call(side, ids, mask)
    for _ in range(asked["warm"]):
        call()
    times = []
    for _ in range(asked["calls"]):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return {"ms": times}


def _call(side: Side, ids: np.ndarray, mask: np.ndarray) -> Callable[[], object]:
    """What is timed; a side that tokenizes itself gets texts of as many tokens."""
    if side.texts is None or side.encode is None:
        return lambda: side.run(ids, mask)
    encode, texts = side.encode, side.texts(*ids.shape)
    return lambda: encode(texts, len(texts))


def time_stream(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds for all texts through the side's own encode; a short run before it warms up."""
    if side.encode is None:
        raise ValueError("this side has no encode")
    if asked.get("warm"):
        side.encode(asked["texts"][:8], asked["batch"])
    time.sleep(SPIN)
    started = time.perf_counter()
    made = side.encode(asked["texts"], asked["batch"])
    return {"s": time.perf_counter() - started, "finite": bool(np.isfinite(made).all())}


def embed(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    """Embeddings of one padded batch, as nested lists; of its texts where a side takes those."""
    if side.texts is not None and side.encode is not None:
        found = side.encode(asked["texts"], len(asked["texts"]))
    else:
        found = side.run(*(np.array(asked[key], dtype=np.int64) for key in ("ids", "mask")))
    return {"embeddings": np.asarray(found, dtype=np.float64).tolist()}


def census(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    """Layers of the compiled model, and what one call ran: times and milliseconds a kernel.

    The kernels need a side that was loaded with "profile", and have run once at these sizes: which
    kernel a product gets is decided then.
    """
    if side.compiled is None:
        raise ValueError("this side has no compiled model to look into")
    layers: dict[str, int] = {}
    for op in side.compiled.get_runtime_model().get_ordered_ops():
        name = str(op.get_rt_info()["layerType"].astype(str))
        layers[name] = layers.get(name, 0) + 1
    kernels: dict[str, list[float]] = {}
    for step in side.profile() if side.profile else ():
        if str(step.status).endswith("EXECUTED"):
            row = kernels.setdefault(f"{step.node_type} {step.exec_type}", [0, 0.0])
            row[0] += 1
            row[1] += step.real_time.total_seconds() * 1e3
    return {"layers": layers, "kernels": kernels}


def memory(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    """Resident bytes now: in all, and those that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {
        line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Vm", "Rss"))
    }
    return {"resident": 1024 * int(found["VmRSS"]), "own": 1024 * int(found["RssAnon"])}


def ways(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    """How batches of each size were computed, where a side has a choice."""
    return {"ways": side.ways() if side.ways else {}}


ANSWERS: dict[str, Callable[[Side, dict[str, Any]], dict[str, Any]]] = {
    "time": time_calls,
    "stream": time_stream,
    "embed": embed,
    "census": census,
    "memory": memory,
    "ways": ways,
}


def main() -> None:
    """Load, say how long that took, answer until standard input ends."""
    # Libraries print to standard output: the answers get a descriptor that they do not know.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(body: dict[str, Any]) -> None:
        answers.write(json.dumps(body) + "\n")
        answers.flush()

    spec = json.loads(sys.argv[1])
    try:
        for module in spec.get("imports", ()):
            __import__(module)  # before the clock: importing is not loading
        started = time.perf_counter()
        side = LOADERS[spec["kind"]](spec)
        answer({"load_s": time.perf_counter() - started})
    except Exception as error:
        answer({"error": _one_line(error)})
        return
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer(ANSWERS[asked["do"]](side, asked))
        except Exception as error:
            answer({"error": _one_line(error)})


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":
    main()
