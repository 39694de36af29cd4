"""A quantized export from end to end: one graph for all targets, and the integers that they
store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import numpy_helper

from goldfold import export, load
from goldfold.exporter.artifact.bundle import read_manifest
from goldfold.golden import make as golden_make
from goldfold.targets.openvino import markup, precise
from goldfold.targets.tensorrt import vendor
from tests.conftest import GOLDEN_TEXTS

RECIPE = """
summary = "all kinds of integers"
gains = "balance"
alpha = 0.5
[weights]
bits = 8
rounding = "gptq"
[table]
bits = 8
[[rule]]
kinds = ["head"]
bits = 0
[[rule]]
kinds = ["query", "key", "value"]
activations = "static"
[[rule]]
kinds = ["gate"]
block = 16
"""
PACKED = """
gains = "keep"
[weights]
bits = 8
[table]
bits = 6
block = 16
"""
FIVE = PACKED.replace("bits = 6\nblock = 16", "bits = 5")
RECIPES = {"mine": RECIPE, "packed": PACKED, "five": FIVE}


@pytest.fixture(scope="module")
def quantized(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantized")
    recipes = _written(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
        results = export(
            tiny, ["openvino", "onnxruntime"], ["fp32", *recipes], folder / "out", locate=False
        )
        if vendor.builder() == vendor.RTX:
            beside = export(
                tiny,
                ["openvino", "tensorrt"],
                recipes,
                folder / "both",
                build={"compute_capability": ("sm86",), "profile": ("1x1:2x16:4x600",)},
                locate=False,
            )
            results += [one for one in beside if one.bundle.name.startswith("tensorrt")]
    assert [result.bundle.name for result in results][:8] == [
        f"{target}-{name}" for target in ("openvino", "onnxruntime") for name in ("fp32", *RECIPES)
    ]
    assert results[0].passed and results[4].passed
    # A random model may miss the gate of a trained one; 0.02 is four times that gate's worst text,
    # and an integer read with a wrong scale is far beyond it.
    assert all(result.measurement.mean < 0.02 for result in results)
    return {result.bundle.name: result.path for result in results}


def _written(folder: Path) -> list[str]:
    for name, text in RECIPES.items():
        (folder / f"{name}.toml").write_text(text)
    return [str(folder / f"{name}.toml") for name in RECIPES]


def test_the_manifest_says_what_is_in_it(quantized: dict[str, Path]) -> None:
    manifest = read_manifest(quantized["openvino-mine"])
    assert manifest.recipe is not None and manifest.recipe.name == "mine"
    assert (manifest.gate, manifest.floating) == ("int8", "bf16")
    assert manifest.needs == {"int8", "static"}
    applied = {report.name: report.applied for report in manifest.passes}
    assert applied["quantize-weights"] and applied["quantize-activations"]


def integers(path: Path) -> set[bytes]:
    """Every array of int8 in an artifact's ONNX."""
    return {
        tensor.tobytes()
        for one in onnx.load(path / "model.onnx").graph.initializer
        if (tensor := numpy_helper.to_array(one)).dtype == np.int8 and tensor.size > 1
    }


@pytest.mark.skipif(vendor.builder() != vendor.RTX, reason="TensorRT for RTX is not installed")
def test_tensorrt_stores_them_too_with_the_same_scales(quantized: dict[str, Path]) -> None:
    """Exported beside another target than ONNX Runtime was: calibration gives the same again. Its
    scales are fp16, and lose nothing by it."""
    for name in RECIPES:
        assert integers(quantized[f"tensorrt-{name}"]) == integers(quantized[f"onnxruntime-{name}"])
    assert read_manifest(quantized["tensorrt-mine"]).floating == "fp16"
    scales: dict[str, set[tuple[float, ...]]] = {}
    for target in ("onnxruntime", "tensorrt"):
        graph = onnx.load(quantized[f"{target}-mine"] / "model.onnx").graph
        arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        scales[target] = {
            tuple(arrays[node.input[1]].astype(np.float64).reshape(-1))
            for node in graph.node
            if node.op_type == "DequantizeLinear"
        }
    # ONNX Runtime's table has no DequantizeLinear: its rows are looked up first.
    assert len(scales["onnxruntime"]) > 10
    assert scales["onnxruntime"] < scales["tensorrt"]


@pytest.mark.parametrize("name", RECIPES)
def test_targets_store_the_same_integers(quantized: dict[str, Path], name: str) -> None:
    ours = integers(quantized[f"onnxruntime-{name}"])
    model = ov.Core().read_model(quantized[f"openvino-{name}"] / "openvino_model.xml")
    theirs = {
        op.get_data().tobytes()
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Constant"
        and op.get_element_type() == ov.Type.i8
        and op.get_data().size > 1
    }
    assert len(theirs) > 10 and theirs <= ours
    assert len(theirs) == len(ours)


@pytest.mark.parametrize("name", RECIPES)
def test_openvino_looks_rows_up_before_they_are_numbers(
    quantized: dict[str, Path], name: str
) -> None:
    """Its kernel for a table that is dequantized as a whole truncates half of them in bf16."""
    model = ov.Core().read_model(quantized[f"openvino-{name}"] / "openvino_model.xml")
    looked_up = [
        op.input_value(0).get_node()
        for op in model.get_ops()
        if op.get_type_name() == "Gather" and op.input_value(0).get_partial_shape().is_static
    ]
    tables = [op for op in looked_up if op.get_output_element_type(0) in (ov.Type.i8, ov.Type.u8)]
    assert [op.get_type_name() for op in tables] == ["Constant"]
    for op in looked_up:  # scales and angles, of which fp16 may hold the numbers, and no integers
        while op.get_type_name() != "Constant":
            assert op.get_type_name() == "Convert"
            op = op.input_value(0).get_node()


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_table_of_six_bits_takes_three_quarters(quantized: dict[str, Path], target: str) -> None:
    if f"{target}-packed" not in quantized:
        pytest.skip("TensorRT for RTX is not installed")
    manifest = read_manifest(quantized[f"{target}-packed"])
    assert manifest.gate == "int8" and manifest.needs == {"int8"}
    assert {report.name: report.applied for report in manifest.passes}["pack-table"] == 1
    rows = manifest.contract.vocab_size
    widths = {
        one.dims[1]
        for one in onnx.load(quantized[f"{target}-packed"] / "model.onnx").graph.initializer
        if list(one.dims[:1]) == [rows] and one.data_type == onnx.TensorProto.INT8
    }
    assert widths == {manifest.contract.dim * 3 // 4}


@pytest.fixture(scope="module")
def core_ml(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same recipes for Core ML, exported by themselves: calibration gives the same again."""
    pytest.importorskip("coremltools")
    folder = tmp_path_factory.mktemp("core-ml")
    recipes = _written(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
        results = export(
            tiny,
            ["coreml"],
            recipes,
            folder / "out",
            build={"buckets": (32,)},
            locate=False,
        )
    assert all(result.measurement.mean < 0.02 for result in results)  # as above
    return {Path(recipe).stem: one.path for recipe, one in zip(recipes, results, strict=True)}


@pytest.mark.parametrize("name", RECIPES)
def test_core_ml_stores_them_too(
    quantized: dict[str, Path], core_ml: dict[str, Path], name: str
) -> None:
    """As they are, or transposed, which is how its linear maps want them; the table too."""
    from goldfold.targets.coreml.package import read

    manifest = read_manifest(core_ml[name])
    gate = "int4" if name == "five" else "int8"
    assert (manifest.gate, manifest.floating) == (gate, "fp16")
    assert any("lie in the file as integers" in sentence for sentence in manifest.built)
    assert any("iOS18 and macOS15" in sentence for sentence in manifest.built)
    graph = onnx.load(quantized[f"onnxruntime-{name}"] / "model.onnx").graph
    arrays = [numpy_helper.to_array(one) for one in graph.initializer]
    wanted = [array for array in arrays if array.dtype == np.int8 and array.size > 1]
    function = read(core_ml[name] / "model.mlpackage").function()
    given = [value for op in function.operations for value in op.inputs.values()]
    held = {
        (array.shape, array.tobytes())
        for array in (*given, *function.constants.values())
        if isinstance(array, np.ndarray) and array.dtype == np.int8 and array.size > 1
    }
    assert len(held) == len(wanted) > 10
    for array in wanted:
        ways = [(one.shape, np.ascontiguousarray(one).tobytes()) for one in (array, array.T)]
        assert held & set(ways)
    counts = {op.op for op in function.operations}
    steps = {"quantize", "dequantize"} if name == "mine" else set()
    assert steps | {"constexpr_blockwise_shift_scale"} <= counts


def test_integers_are_smaller_and_close(quantized: dict[str, Path]) -> None:
    exact = load(quantized["openvino-fp32"]).embed(["How do plants eat?", "ok"])
    for target in ("openvino", "onnxruntime"):
        path = quantized[f"{target}-mine"]
        weights = sum(f.stat().st_size for f in path.glob("*model*") if f.suffix != ".xml")
        whole = quantized[f"{target}-fp32"]
        # A quarter of the bytes in most matrices; the head, norms and rotary tables stay f32.
        assert weights < 0.6 * sum(
            f.stat().st_size for f in whole.glob("*model*") if f.suffix != ".xml"
        )
        if path.name.endswith(".failed"):
            continue
        got = load(path).embed(["How do plants eat?", "ok"])
        assert ((exact * got).sum(axis=1) > 1 - 0.02).all()  # as above


DYNAMIC = """
gains = "keep"
dynamic = 32
[weights]
bits = 8
[table]
bits = 8
"""


def test_what_integers_meet_is_rounded_as_the_file_says_and_not_otherwise(
    quantized: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "going.toml").write_text(DYNAMIC)
    close = DYNAMIC.replace("dynamic = 32", 'around = "close"')
    (tmp_path / "exact.toml").write_text(close)
    recipes = [str(tmp_path / f"{name}.toml") for name in ("going", "exact")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
        going, exact = export(tiny, ["openvino"], recipes, tmp_path / "out", locate=False)
    assert going.bundle.manifest.gate == "int8" and exact.bundle.manifest.gate == "int8-weights"
    floats = [result.bundle.manifest.floating for result in (going, exact)]
    assert floats == ["bf16", "fp32"]
    files = {result.path: result.path / "openvino_model.xml" for result in (going, exact)}
    said = [ov.Core().compile_model(file, "CPU") for file in files.values()]  # as others open it
    groups = [int(one.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) for one in said]
    assert groups == [32, 0]
    # Of the stream, the first quarter alone is kept in f32 beside rounded activations.
    additions = precise.stream(ov.Core().read_model(files[going.path]))
    marked = [markup.marked(file, precise.MARK) for file in files.values()]
    assert len(marked[0] & additions) == -(-len(additions) // 4) and len(additions) > 4
    rows = precise.lookups(ov.Core().read_model(files[going.path]))
    assert marked == [marked[0] & additions | rows, set()] and len(rows) == 3
    # Matrices and rotary tables that are no integers lie there in fp16; a column of scales is one
    # number a row, and here too short to be set aside.
    for file in files.values():
        kinds = {
            op.get_element_type().get_type_name()
            for op in ov.Core().read_model(file).get_ops()
            if op.get_type_name() == "Constant"
            and len(op.get_output_shape(0)) == 2
            and op.get_output_shape(0)[1] > 1
        }
        assert kinds == {"i8", "f16"}
    # The integers are the same; only what they are multiplied with is rounded, or not.
    assert 0 <= exact.measurement.mean < going.measurement.mean < 0.02
