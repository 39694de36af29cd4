"""Program → `model.onnx`, the engine that NVIDIA's compiler builds from it in a process of its own,
and the recipe to build it again elsewhere."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from goldfold.exporter.errors import RewriteError, TargetError
from goldfold.exporter.ir import onnx_file as onnxfile
from goldfold.exporter.ir.program import Program, infer_shapes, where
from goldfold.exporter.system.files import digest
from goldfold.targets.base import Built
from goldfold.targets.tensorrt import architectures, proof, settings, twin, vendor, worker
from goldfold.targets.tensorrt.layout import COMMAND, ENGINE, RECIPE, SPEC
from goldfold.targets.tensorrt.options import TensorRtOptions


def write(
    program: Program, precision: str, folder: Path, options: TensorRtOptions, *, named: bool = True
) -> Built:
    """Write the target's files, for as many of the architectures in `options` as the program
    allows; returns the record of the build: what its bytes prove, and which architectures were left
    out.

    `named`: the user named the architectures, and none is left out. Raises TargetError for an
    ability that a named one, or every one, lacks; RewriteError for a refusal of NVIDIA's parser or
    compiler, with its own words, the node and its source module.
    """
    infer_shapes(program.model)
    architectures.check_graph(program)
    able, lacks = architectures.without(program, options.compute_capability, named)
    places = {node.name: where(node) for node in program.graph}
    if not named:
        lacks |= _older(program, precision, options, lacks)
    onnxfile.write(program, folder, "tensorrt")
    module = vendor.builder()
    if module is None:
        raise TargetError("no TensorRT compiler is installed")
    options = options.with_(compute_capability=able)
    shutil.copyfile(worker.__file__, folder / RECIPE)
    attempt = partial(_compile, program, precision, module, folder)
    result = attempt(options)
    if not named and _is_refused(result) and len(able) > 1:
        able, refused = _each(attempt, options, places)
        if able:
            options = options.with_(compute_capability=able)
            result = attempt(options)
            lacks |= refused
    _check(result, places)
    with tempfile.TemporaryDirectory(dir=folder) as room:
        second = partial(second_engine, folder, Path(room), places)
        rtx = module == vendor.RTX
        holding = proof.look(folder / ENGINE, folder / onnxfile.MODEL, second if rtx else None)
    profiles = len(options.profile)
    if rtx and (fault := holding.fault(profiles)) is not None:
        raise RewriteError(f"{ENGINE} does not hold what its ONNX says: {fault}")
    said, left = _said(module, holding, options), architectures.left_out(lacks)
    return Built(options, said, left, {ENGINE: digest(folder / ENGINE)})


def _compile(
    program: Program, precision: str, module: str, folder: Path, options: TensorRtOptions
) -> dict[str, Any]:
    """Write the recipe of `folder`'s ONNX file for these options, and run it."""
    spec = _spec(program, precision, module, options)
    (folder / SPEC).write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    (folder / COMMAND).write_text(_trtexec(spec, options) + "\n", encoding="utf-8")
    return compile_engine(folder)


def _is_refused(result: dict[str, Any]) -> bool:
    """Returns whether the parser took the graph and the compiler did not."""
    return not result["refused"] and not result["built"]


def _each(
    attempt: Callable[[TensorRtOptions], dict[str, Any]],
    options: TensorRtOptions,
    places: dict[str | None, str],
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the architectures that compile one by one, and the compiler's messages for the
    others."""
    able, refused = [], {}
    for capability in options.compute_capability:
        result = attempt(options.with_(compute_capability=(capability,)))
        if _is_refused(result):
            refused[capability] = f"gets no engine: {_refusal(result, places)}"
        else:
            able.append(capability)
    return tuple(able), refused


def _older(
    program: Program, precision: str, options: TensorRtOptions, lacks: Mapping[str, str]
) -> dict[str, str]:
    """Returns why the architectures that are not in `options` were never asked for: the abilities
    that they lack."""
    if vendor.builder() != vendor.RTX:
        return {}  # there is one GPU, and its own architecture
    others = [c for c in vendor.capabilities() if c not in options.compute_capability]
    found = architectures.lacking(program, others)
    return {c: str(found.get(c, f"is too old for {precision}")) for c in others if c not in lacks}


def second_engine(
    folder: Path, room: Path, places: dict[str | None, str], weights: Sequence[str]
) -> tuple[Path, Path]:
    """Builds a second engine in `room`, of the ONNX file in `folder` with `weights` turned."""
    onnx_file = twin.turn(folder / onnxfile.MODEL, room, weights)
    for name in (SPEC, RECIPE):
        shutil.copyfile(folder / name, room / name)
    _check(compile_engine(room), places)
    return room / ENGINE, onnx_file


def compile_engine(folder: Path) -> dict[str, Any]:
    """Run the recipe of an artifact's folder; returns the worker's report.

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


def _spec(
    program: Program, precision: str, module: str, options: TensorRtOptions
) -> dict[str, Any]:
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
        # There is a fused attention for half precision; without decomposition fp32 would not build
        # at all, nor would texts that the graph pads to one length.
        "decompose": precision == "fp32" or _is_padded(program),
    }


def _is_padded(program: Program) -> bool:
    """Returns whether attention is over a number of tokens that no input decides."""
    found = (node.inputs[0] for node in program.graph if node.op_type == "Attention")
    shapes = (None if value is None else value.shape for value in found)
    return any(shape is not None and isinstance(shape[2], int) for shape in shapes)


def _trtexec(spec: dict[str, Any], options: TensorRtOptions) -> str:
    """Returns the same build as a line for the tool that comes with TensorRT."""
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
            "\n# its attention has no fused kernel: mark its layers decomposable as build.py does"
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
        raise RewriteError(_refusal(result, places))


def _refusal(result: dict[str, Any], places: dict[str | None, str]) -> str:
    # A node's name in NVIDIA's sentence leads back to the source module.
    says = (result["said"] or ["no reason given"])[0]
    named = max((n for n in places if n and n in says), key=len, default=None)
    place = f" (from {places[named]})" if named else ""
    return f"NVIDIA's compiler refuses the graph{place}: {_line(says)}"


def _line(text: str) -> str:
    return " ".join(text.split())


def _said(module: str, holding: proof.Holding, options: TensorRtOptions) -> tuple[str, ...]:
    """Returns the manifest's notes: never more than was seen."""
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
    if not holding.pieces:
        return (built, held)
    cut = sum(len(pieces) > 1 for pieces in holding.pieces.values())
    twin = (
        f"{len(holding.pieces)} weights, {cut} of them cut in pieces, stand where a second engine, "
        "built with the last bit of every weight turned, holds them turned"
    )
    return (built, held, twin)
