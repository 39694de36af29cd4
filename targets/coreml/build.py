"""Program → `model.mlpackage`: one function per bucket, weights written once, the same bytes every
time.

The MIL program goes to coremltools' serialiser as it stands. Its optimising passes do not run: the
rows write what those passes would find, and the passes copy every weight several times.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.ir.program import Program
from goldfold.targets.coreml import swift
from goldfold.targets.coreml.layout import DATA, MANIFEST, MODEL, PACKAGE, WEIGHTS, function_name
from goldfold.targets.coreml.lower import lowering, vendor
from goldfold.targets.coreml.lower.table import ROWS
from goldfold.targets.coreml.options import CoreMlOptions

_SPACE = uuid.UUID("0d6f1c5e-6d5b-5a43-9a0b-5f2c8c1f7d11")
"""The namespace of the package's identifiers, which are derived from the files that they name."""


def write(program: Program, folder: Path, options: CoreMlOptions) -> tuple[str, ...]:
    """Write the package and its Swift loader, and return the manifest's notes.

    Raises RewriteError for an op that no row can express, TargetError for an op that the system
    does not have.
    """
    lowering.check(program, ROWS)
    system = vendor.system(options.minimum_target or vendor.DEFAULT_SYSTEM)
    save(milprogram(program, system, options), folder / PACKAGE, system)
    swift.write(folder, program.contract, program.tokenizer, options)
    return said(options, system, _quantized(program))


def _quantized(program: Program) -> bool:
    kinds = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)
    return any(value.dtype in kinds for value in program.graph.initializers.values())


def said(options: CoreMlOptions, system: vendor.System, quantized: bool) -> tuple[str, ...]:
    """Returns the manifest's notes on a build: its contents, and what was verified of it."""
    held = (
        f"One function for any length, for {system.devices} and later. A flexible length costs the "
        "Neural Engine: Core ML then runs on the CPU and the GPU."
        if options.flexible
        else f"Static lengths of {', '.join(map(str, options.buckets))} tokens, batch 1, for "
        f"{system.devices} and later."
    )
    integers = (
        "Weights lie in the file as integers; whether Core ML opens them when it loads the package "
        "or while it runs, and which unit multiplies integers, was not seen.",
    )
    seen = (
        "Off macOS its numbers come from goldfold's evaluator of MIL programs, which rounds every "
        "value typed fp16; the Neural Engine's arithmetic and placement were not seen."
    )
    return (held, *(integers if quantized else ()), seen)


@dataclass(frozen=True)
class Place:
    """An input of a function: its sizes (None is an open one), and MIL's word for its type."""

    sizes: tuple[int | None, ...]
    kind: str = "int32"


def milprogram(program: Program, system: vendor.System, options: CoreMlOptions) -> Any:
    """Returns the MIL program: one function for all lengths, or one per bucket."""
    made = begun(options)
    for bucket in options.buckets or (None,):
        add(made, program, system, options, bucket)
    return made


def begun(options: CoreMlOptions) -> Any:
    """Returns a MIL program without functions yet."""
    vendor.coremltools()
    from coremltools.converters.mil.mil import Program as MilProgram

    # Names that coremltools gives by itself count from here, so that two builds agree.
    vendor.builder().name_count.clear()
    made = MilProgram()
    made.export_as_multifunction = len(options.buckets) > 1
    return made


def add(
    made: Any, program: Program, system: vendor.System, options: CoreMlOptions, bucket: int | None
) -> None:
    """Lower one bucket into `made`; None is every length."""
    places = {name: Place((1, bucket)) for name in (INPUT_IDS, ATTENTION_MASK)}
    name = function_name(bucket, options.buckets) if bucket else "main"
    made.add_function(name, function(program, system, places))
    made.default_function_name = name  # the last is the longest, which holds any text


def function(program: Program, system: vendor.System, places: Mapping[str, Place]) -> Any:
    """Returns one MIL function of the program over inputs of these sizes. All open sizes are one
    and the same, from 1 to the contract's longest text."""
    ct = vendor.coremltools()
    from coremltools.converters.mil.mil import Function, get_new_symbol, types

    open_size = get_new_symbol()
    inputs = {}
    for name, place in places.items():
        sizes = tuple(open_size if size is None else size for size in place.sizes)
        kind = types.string_to_builtin(place.kind)
        inputs[name] = vendor.builder().placeholder(shape=sizes, dtype=kind)
    with Function(inputs, opset_version=system.word) as made:
        opened = lowering.opened(program, system, ROWS)
        made.set_outputs(lowering.write(opened, {name: made.inputs[name] for name in places}))
    if any(None in place.sizes for place in places.values()):
        dim = ct.RangeDim(1, program.contract.max_length, default=1)
        kinds = [
            ct.TensorType(name, shape=tuple(dim if n is None else n for n in place.sizes))
            for name, place in places.items()
        ]
        made.set_input_types(tuple(kinds))  # type: ignore[arg-type]
    return made


def save(made: Any, package: Path, system: vendor.System) -> None:
    """Write a MIL program as a package. Raises RewriteError if coremltools refuses it."""
    weights = package / DATA / WEIGHTS
    weights.parent.mkdir(parents=True)
    spec = serialise(made, weights.parent, system)
    (package / DATA / MODEL).write_bytes(spec.SerializeToString(deterministic=True))
    _manifest(package)


def serialise(made: Any, weights: Path, system: vendor.System) -> Any:
    """Returns the package's protobuf; `weights` gets weight.bin."""
    from coremltools.converters.mil.backend.mil import load as backend
    from coremltools.converters.mil.mil import types

    class Exporter(backend.MILProtoExporter):
        """An exporter whose weights reach the file without the copies that coremltools' own writer
        makes of each."""

        def create_file_value(self, var: Any) -> Any:
            known = self.weight_id_to_file_value.get(var.op.weight_id)
            word = types.builtin_to_string(var.dtype)
            if known is not None or var.op.weight_id is None or word not in _BITS:
                return known if known is not None else super().create_file_value(var)
            path = self.get_weight_path(var.op)
            method, seen_as = _BITS[word]
            array = np.ascontiguousarray(var.val).reshape(-1)
            offset = getattr(self.get_blob_writer(path), method)(array.view(seen_as))
            value = backend.create_file_value_tensor(
                file_name=f"@model_path/{WEIGHTS}",
                offset=offset,
                dim=var.val.shape,
                data_type=backend.types_to_proto_primitive(var.sym_type.get_primitive()),
            )
            self.weight_id_to_file_value[var.op.weight_id] = value
            return value

    try:
        made._check_early_error_out_for_invalid_program()
        program = Exporter(made, str(weights), system.number).export()
        return backend.CoreMLProtoExporter(
            made,
            program,
            predicted_feature_name=None,  # type: ignore[arg-type]
            predicted_probabilities_name=None,  # type: ignore[arg-type]
            classifier_config=None,  # type: ignore[arg-type]
            convert_to="mlprogram",
            convert_from="milinternal",
            specification_version=system.number,
        ).export(system.number)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RewriteError(f"coremltools refuses the program: {reason}") from error


_BITS = {
    "fp32": ("write_float_data", np.float32),
    "fp16": ("write_fp16_data", np.uint16),
    "int32": ("write_int32_data", np.int32),
    "int8": ("write_int8_data", np.int8),
    "uint8": ("write_uint8_data", np.uint8),
    "int4": ("write_int4_data", np.int8),  # it packs two numbers into a byte
    "uint4": ("write_uint4_data", np.uint8),
}
"""Type → the blob writer's method for it, and the numpy type in which it takes the bits."""


def _manifest(package: Path) -> None:
    """Write Manifest.json, with identifiers derived from the files' names and content."""
    items = {}
    model_id = ""
    for path, what in ((MODEL, "Model Specification"), ("weights", "Model Weights")):
        file = package / DATA / (path if path == MODEL else WEIGHTS)
        if not file.is_file():
            continue
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        identifier = str(uuid.uuid5(_SPACE, f"{path} {digest}")).upper()
        model_id = model_id or identifier
        author = "com.apple.CoreML"
        items[identifier] = {
            "author": author,
            "description": f"CoreML {what}",
            "name": path,
            "path": f"{author}/{path}",
        }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": items,
        "rootModelIdentifier": model_id,
    }
    text = json.dumps(manifest, indent=4, sort_keys=True)
    (package / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
