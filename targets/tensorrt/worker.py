"""Build a TensorRT engine from an ONNX file as a JSON file says, with NVIDIA's parser and compiler
alone.

    python build.py [build.json] [--module tensorrt] [--engine model.engine] [--result FILE]

goldfold runs this in a process of its own, so that a crash of the compiler is an error and its
memory is given back; and it puts a copy into every artifact, so that the engine can be built again
for another GPU. It imports only the standard library and TensorRT.

The engine is strongly typed: its precision is that of the graph. `capabilities` are for TensorRT
for RTX, which needs no GPU; TensorRT builds for the GPU at hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path


def build(spec: dict, folder: Path, engine: Path) -> dict:
    """Parse and build; returns a record of the build. NVIDIA's refusals are recorded, not
    raised."""
    trt = import_module(spec["module"])
    said: list[str] = []

    plan: list[dict] = []

    class Log(trt.ILogger):
        def log(self, severity, message):
            if severity <= trt.ILogger.Severity.ERROR:
                said.append(message)
            elif message.startswith("Layers:"):
                plan.extend(_plan(message))

    log = Log()
    started = time.perf_counter()
    builder = trt.Builder(log)
    # From version 11 on, and in TensorRT for RTX, every network is strongly typed.
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly is None else 1 << int(strongly))
    parser = trt.OnnxParser(network, log)
    result: dict = {"version": trt.__version__, "refused": [], "said": said}
    if not parser.parse_from_file(str(folder / spec["onnx"])):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        result["refused"] = [
            {"node": e.node_name(), "op": e.node_operator(), "says": e.desc()} for e in found
        ]
        return result
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    result["layers"] = dict(Counter(str(layer.type).rpartition(".")[2] for layer in layers))
    if spec["decompose"]:
        for layer in layers:
            if str(layer.type).endswith("ATTENTION_INPUT"):
                layer.__class__ = trt.IAttentionInputLayer
                layer.attention.decomposable = True

    config = builder.create_builder_config()
    if spec.get("explain"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: fp32 would be computed in 10 bits
    result["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
    if hasattr(config, "num_compute_capabilities"):  # only TensorRT for RTX
        config.num_compute_capabilities = len(spec["capabilities"])
        for index, name in enumerate(spec["capabilities"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)
    if "version" in spec["compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if "hardware" in spec["compatible"]:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    for shapes in spec["profiles"]:
        profile = builder.create_optimization_profile()
        for name in spec["inputs"]:
            profile.set_shape(name, *map(tuple, shapes))
        config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is not None:
        with engine.open("wb") as file:
            file.write(built)
    result["built"] = built is not None
    result["plan"] = plan
    result["seconds"] = time.perf_counter() - started
    result["peak_bytes"] = _peak()
    return result


def _plan(message: str) -> list[dict]:
    """Returns the kernels that the compiler chose, from its log: name, kind, and the types of their
    inputs and outputs. Complete only where `explain` is asked for."""
    found = []
    for part in re.split(r"(?:^|\n)\s*Name: ", message.partition("I/O Tensors:")[0])[1:]:
        if (kind := re.search(r"LayerType: (\w+)", part)) is None:
            continue
        into, _, out = part.partition("Outputs: ")
        kernel = {"name": part.partition(",")[0], "kind": kind[1]}
        kernel |= {
            key: re.findall(r"Datatype: (\w+)", text)
            for key, text in (("reads", into), ("makes", out))
        }
        found.append(kernel)
    return found


def _peak() -> int:
    """Returns the most resident bytes so far; of this program alone, which getrusage does not
    give."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def main() -> int:
    """Read the JSON file, build, and print the outcome. Exit code 1 if there is no engine."""
    read = argparse.ArgumentParser(description="Build a TensorRT engine from model.onnx.")
    read.add_argument("spec", nargs="?", type=Path, default=Path(__file__).parent / "build.json")
    read.add_argument("--module", choices=("tensorrt", "tensorrt_rtx"))
    read.add_argument("--engine", type=Path)
    read.add_argument("--result", type=Path, help="write the result as JSON")
    asked = read.parse_args()
    spec = json.loads(asked.spec.read_text(encoding="utf-8"))
    spec["module"] = asked.module or spec["module"]
    engine = asked.engine or asked.spec.parent / spec["engine"]
    try:
        result = build(spec, asked.spec.parent, engine)
    except Exception as error:
        result = {"refused": [], "built": False, "said": [f"{type(error).__name__}: {error}"]}
    if asked.result is not None:
        asked.result.write_text(json.dumps(result), encoding="utf-8")
    if result.get("built"):
        print(f"{engine}: {engine.stat().st_size / 1e6:.0f} MB in {result['seconds']:.0f} s")
        return 0
    reasons = [entry["says"] for entry in result["refused"]] or result["said"]
    print(f"error: {(reasons or ['no engine, and no reason given'])[0]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
