"""Program → `model.onnx`, the engine that NVIDIA's compiler builds from it in a process of its own,
and the recipe to build it again elsewhere."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from exporter import onnxfile
from exporter.errors import RewriteError, TargetError
from exporter.options import BuildOptions
from exporter.program import Program, where
from targets.tensorrt import proof, settings, vendor, worker

ENGINE = "model.engine"
RECIPE = "build.py"
SPEC = "build.json"
COMMAND = "trtexec.txt"
SPEC_LIMIT = 1 << 20
"""Bytes of build.json."""


def write(program: Program, precision: str, folder: Path, options: BuildOptions) -> tuple[str, ...]:
    """Write the target's files; returns what was built and what its bytes prove.

    Raises TargetError for what an architecture lacks, RewriteError for what NVIDIA's parser or
    compiler refuses, with its own words, the node and its source module.
    """
    settings.check_graph(program, options.compute_capability)
    places = {node.name: where(node) for node in program.graph}
    onnxfile.write(program, folder, "tensorrt")
    module = vendor.builder()
    if module is None:
        raise TargetError("no TensorRT compiler is installed")
    spec = _spec(program, precision, module, options)
    (folder / SPEC).write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(worker.__file__, folder / RECIPE)
    (folder / COMMAND).write_text(_trtexec(spec, options) + "\n", encoding="utf-8")
    result = compile_engine(folder)
    _check(result, places)
    holding = proof.look(folder / ENGINE, folder / onnxfile.MODEL)
    if module == vendor.RTX and (fault := holding.fault(len(spec["profiles"]))) is not None:
        raise RewriteError(f"{ENGINE} does not hold what its ONNX says: {fault}")
    return _said(module, holding, options)


def compile_engine(folder: Path) -> dict[str, Any]:
    """Run the recipe of an artifact's folder; returns what the worker reports.

    Raises RewriteError if the compiler crashed.
    """
    report = folder / "result.json"
    command = [sys.executable, "-P", str(folder / RECIPE), "--result", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    try:
        result = json.loads(report.read_bytes())
    except (OSError, ValueError):
        raise RewriteError(f"NVIDIA's compiler {_ending(done)}") from None
    finally:
        report.unlink(missing_ok=True)
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return result


def _ending(done: subprocess.CompletedProcess) -> str:
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    if done.returncode < 0:
        return f"crashed (signal {-done.returncode}); it said: {last}"
    return f"ended without a report (exit code {done.returncode}); it said: {last}"


def _spec(program: Program, precision: str, module: str, options: BuildOptions) -> dict[str, Any]:
    profiles = [
        settings.parse_profile(text, program.contract.max_length) for text in options.profile
    ]
    return {
        "module": module,
        "onnx": onnxfile.MODEL,
        "engine": ENGINE,
        "inputs": list(program.contract.inputs),
        "capabilities": list(options.compute_capability),
        "compatible": list(options.compatible),
        "profiles": [[list(p.least), list(p.usual), list(p.most)] for p in profiles],
        # There is a fused attention for half precision; without one f32 would not build at all.
        "decompose": precision == "fp32",
    }


def _trtexec(spec: dict[str, Any], options: BuildOptions) -> str:
    """The same build as a line for the tool that comes with TensorRT."""
    parts = ["trtexec", f"--onnx={spec['onnx']}", f"--saveEngine={spec['engine']}"]
    parts += ["--stronglyTyped", "--noTF32"]
    for index, shapes in enumerate(spec["profiles"]):
        parts.append(f"--profile={index}")
        for flag, (batch, tokens) in zip(("min", "opt", "max"), shapes, strict=True):
            sizes = ",".join(f"{name}:{batch}x{tokens}" for name in spec["inputs"])
            parts.append(shlex.quote(f"--{flag}Shapes={sizes}"))
    flags = {"version": "--versionCompatible", "hardware": "--hardwareCompatibilityLevel=ampere+"}
    line = " ".join([*parts, *(flags[name] for name in options.compatible)])
    if spec["decompose"]:
        line += (
            "\n# f32 attention has no fused kernel: mark its layers decomposable as build.py does"
        )
    return line


def _check(result: dict[str, Any], places: dict[str | None, str]) -> None:
    if result["refused"]:
        first = result["refused"][0]
        place = places.get(first["node"], first["node"])
        raise RewriteError(
            f"NVIDIA's parser refuses {first['op']} (node {first['node']}, from {place}): "
            f"{_line(first['says'])}"
        )
    if not result["built"]:
        # A node's name in NVIDIA's sentence is the way back to the source module.
        says = (result["said"] or ["no reason given"])[0]
        named = max((n for n in places if n and n in says), key=len, default=None)
        place = f" (from {places[named]})" if named else ""
        raise RewriteError(f"NVIDIA's compiler refuses the graph{place}: {_line(says)}")


def _line(text: str) -> str:
    return " ".join(text.split())


def _said(module: str, holding: proof.Holding, options: BuildOptions) -> tuple[str, ...]:
    """What the manifest says: never more than was seen."""
    found = vendor.gpu()
    built = f"built by NVIDIA's compiler, {vendor.TITLES[module]} {vendor.version_of(module)}, for "
    built += ", ".join(options.compute_capability)
    if isinstance(found, str):
        built += "; numbers proved on its ONNX; engine not executed on this machine"
    whole = not holding.missing
    kinds = f", {holding.integers:,} of them integers" if holding.integers else ""
    held = (
        f"of {holding.weights:,} bytes of weights of {proof.LEAST:,} bytes and more{kinds}, "
        f"{'all' if whole else f'{holding.found:,}'} stand in the engine bit by bit; the engine "
        f"has {holding.engine:,} bytes, {holding.engine / max(1, holding.weights):.3f} times that"
    )
    return (built, held)
