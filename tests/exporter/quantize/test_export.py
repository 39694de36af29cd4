"""A quantized export from end to end: one graph for two targets, and the integers that they
store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import numpy_helper

import golden.make
from exporter import export, load
from exporter.bundle import read_manifest
from exporter.options import BuildOptions
from tests.conftest import GOLDEN_TEXTS

RECIPE = """
summary = "all kinds of integers"
gains = "balance"
alpha = 0.5
[weights]
bits = 8
rounding = "compensated"
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


@pytest.fixture(scope="module")
def quantized(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("quantized")
    (folder / "mine.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden.make, "make", partial(golden.make.make, only=GOLDEN_TEXTS))
        results = export(
            tiny,
            ["openvino", "onnxruntime"],
            ["fp32", str(folder / "mine.toml")],
            folder / "out",
            locate=False,
        )
    assert [result.bundle.name for result in results] == [
        "openvino-fp32", "openvino-mine", "onnxruntime-fp32", "onnxruntime-mine",
    ]  # fmt: skip
    assert all(result.passed for result in results[::2])
    # A random model may miss the gate of a trained one; 0.02 is four times that gate's worst text,
    # and an integer read with a wrong scale is far beyond it.
    assert all(result.measurement.mean < 0.02 for result in results)
    return {result.bundle.name: result.path for result in results}


def test_the_manifest_says_what_is_in_it(quantized: dict[str, Path]) -> None:
    manifest = read_manifest(quantized["openvino-mine"])
    assert manifest.recipe is not None and manifest.recipe.name == "mine"
    assert (manifest.gate, manifest.floating) == ("int8", "fp32")
    assert manifest.needs == {"int8", "static"}
    applied = {report.name: report.applied for report in manifest.passes}
    assert applied["quantize-weights"] and applied["quantize-activations"]


def test_targets_store_the_same_integers(quantized: dict[str, Path]) -> None:
    graph = onnx.load(quantized["onnxruntime-mine"] / "model.onnx").graph
    ours = {
        tensor.tobytes()
        for one in graph.initializer
        if (tensor := numpy_helper.to_array(one)).dtype == np.int8 and tensor.size > 1
    }
    model = ov.Core().read_model(quantized["openvino-mine"] / "openvino_model.xml")
    theirs = {
        op.get_data().tobytes()
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Constant"
        and op.get_element_type() == ov.Type.i8
        and op.get_data().size > 1
    }
    assert len(theirs) > 10 and theirs <= ours
    assert len(theirs) == len(ours)


@pytest.fixture(scope="module")
def core_ml(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe for Core ML, exported by itself: calibration gives the same again."""
    pytest.importorskip("coremltools")
    folder = tmp_path_factory.mktemp("core-ml")
    (folder / "mine.toml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden.make, "make", partial(golden.make.make, only=GOLDEN_TEXTS))
        (result,) = export(
            tiny,
            ["coreml"],
            [str(folder / "mine.toml")],
            folder / "out",
            build=BuildOptions(buckets=(32,)),
            locate=False,
        )
    assert result.measurement.mean < 0.02  # as above
    return result.path


def test_core_ml_stores_them_too(quantized: dict[str, Path], core_ml: Path) -> None:
    """As they are, or transposed, which is how its linear maps want them; the table too."""
    from targets.coreml.package import read

    manifest = read_manifest(core_ml)
    assert (manifest.gate, manifest.floating) == ("int8", "fp16")
    assert any("lie in the file as integers" in sentence for sentence in manifest.built)
    assert any("iOS18 and macOS15" in sentence for sentence in manifest.built)
    graph = onnx.load(quantized["onnxruntime-mine"] / "model.onnx").graph
    arrays = [numpy_helper.to_array(one) for one in graph.initializer]
    wanted = [array for array in arrays if array.dtype == np.int8 and array.size > 1]
    function = read(core_ml / "model.mlpackage").function()
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
    assert {"quantize", "dequantize", "constexpr_blockwise_shift_scale"} <= counts


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
