"""Small helpers of the Core ML tests: one node or one MIL op as a package, and back."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from goldfold.exporter.contract import Contract
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program
from goldfold.targets.coreml import build
from goldfold.targets.coreml.build import Place
from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.lower import vendor
from goldfold.targets.coreml.package import MilFunction, Package, read

KINDS = {"float32": "fp32", "float16": "fp16", "int64": "int32", "int32": "int32", "bool": "bool"}
CONTRACT = Contract(
    model="example", dim=4, max_length=64, vocab_size=64, pad_id=0, normalized=False
)


def model_of(
    op: str,
    inputs: Mapping[str, np.ndarray | None],
    constants: Mapping[str, np.ndarray] | None = None,
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """An ONNX model of one node; operands in order, None is one left out."""
    constants = constants or {}
    everything: dict[str, np.ndarray | None] = {**inputs, **constants}
    order = sorted(everything)  # operands are called a, b, c …
    names = [name if everything[name] is not None else "" for name in order]
    made = [f"y{place}" for place in range(outputs)]
    node = onnx.helper.make_node(op, names, made, name="the_node", domain=domain, **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in inputs.items()
            if array is not None
        ],
        [onnx.ValueInfoProto(name=name) for name in made],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", dialect.OPSET)]
    functions = []
    if domain:
        opsets.append(onnx.helper.make_opsetid(domain, 1))
        kinds = ("", dialect.BIASED)
        functions += [ir.to_proto(dialect.band_attention_function(kind)) for kind in kinds]
    model = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=dialect.IR_VERSION, functions=functions
    )
    return onnx.shape_inference.infer_shapes(model)


def package_of(
    program: Program, places: Mapping[str, Place], folder: Path, system: str = "iOS18"
) -> Package:
    """The program as a package of one function over `places`."""
    vendor.coremltools()  # quietly, before anything else imports it
    from coremltools.converters.mil.mil import Program as MilProgram

    made = MilProgram()
    made.add_function("main", build.function(program, vendor.system(system), places))
    build.save(made, folder / "one.mlpackage", vendor.system(system))
    return read(folder / "one.mlpackage")


def lowered(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    precision: str = "f64",
    flexible: str | None = None,
) -> list[np.ndarray]:
    """The model's outputs through a saved package. `flexible`: the input whose last axis is open.
    MIL takes neither truth values nor scalars as inputs; a test feeds neither."""
    program = Program(ir.from_proto(model), CONTRACT)
    _numbers_out(program.graph)
    places = {}
    for name, array in feeds.items():
        sizes = tuple(None if name == flexible and n == array.ndim - 1 else size
                      for n, size in enumerate(array.shape))  # fmt: skip
        places[name] = Place(sizes, KINDS[str(array.dtype)])
    with tempfile.TemporaryDirectory() as folder:
        package = package_of(program, places, Path(folder))
        results = Evaluator(package, precision=precision)(feeds)
        return [np.array(results[f"y{place}"]) for place in range(len(results))]


def _numbers_out(graph: ir.Graph) -> None:
    """MIL's outputs are numbers in 32 bits; other types are cast to them."""
    wider = {ir.DataType.BOOL: ir.DataType.INT32, ir.DataType.FLOAT16: ir.DataType.FLOAT}
    wider |= dict.fromkeys((ir.DataType.INT8, ir.DataType.UINT8), ir.DataType.INT32)
    for place, value in enumerate(graph.outputs):
        if value.dtype in wider:
            cast = ir.node("Cast", [value], {"to": wider[value.dtype].value}, name=f"cast{place}")
            graph.append(cast)
            name, value.name = value.name, f"{value.name}_before"
            cast.outputs[0].name = name
            graph.outputs[place] = cast.outputs[0]


class Given:
    """goldfold.targets.coreml.reference_ops.Operands over plain arrays."""

    def __init__(self, parameters: Mapping[str, Any], working: type = np.float32) -> None:
        self.parameters, self.working = parameters, working

    def __call__(self, name: str, default: Any = None) -> Any:
        return self.parameters.get(name, default)

    def raw(self, name: str) -> np.ndarray:
        return self.parameters[name]


def inferred(op: str, parameters: Mapping[str, Any]) -> Any:
    """What coremltools itself infers for one op on constants, or makes of it when it opens
    compressed weights; None if it does neither."""
    from coremltools.converters.mil.mil import Function

    mb = vendor.builder()
    place = mb.placeholder(shape=(1,))
    with Function({"unused": place}, opset_version=vendor.system("iOS18").word) as function:
        made = getattr(mb, op)(**parameters)
        function.set_outputs([function.inputs["unused"]])
    several = made if isinstance(made, (list, tuple)) else [made]
    opens = getattr(several[0].op, "materialized_val_inference", None)
    if several[0].val is None and opens is not None:
        return [opens()]
    return [var.val for var in several]


def ops(package: Package) -> dict[str, int]:
    """How often each operation stands in its function."""
    made: dict[str, int] = {}
    for operation in package.function().operations:
        made[operation.op] = made.get(operation.op, 0) + 1
    return made


def stored(function: MilFunction) -> list[np.ndarray]:
    """Every array of 8-bit integers, or fewer, that a function reads."""
    given = [value for op in function.operations for value in op.inputs.values()]
    arrays = [a for a in (*given, *function.constants.values()) if isinstance(a, np.ndarray)]
    return [a for a in arrays if a.dtype.itemsize == 1 and a.dtype.kind in "iu"]
