"""A constant that no golden text touches is wrong: the export misses its gate, and so does the
verification of an artifact that somebody sealed again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from goldfold import export, verify
from goldfold.exporter.artifact.manifest import DERIVATIONS
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import exporting, preparing
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.ir.program import MODULE, Program, constant
from goldfold.golden import store
from goldfold.targets.onnxruntime import TARGET as ONNXRUNTIME
from goldfold.targets.openvino import TARGET as OPENVINO
from tests.torture.tortures.damage import reseal, write_manifest

TABLE = "transformer.embed_tokens.weight"


def sentences(result: Result) -> str:
    assert not result.passed
    assert "constants" in {reason.kind for reason in result.verdict.reasons}
    return " ".join(result.verdict.sentences)


def unseen(folder: Path) -> np.ndarray:
    """The rows of the table that no golden text touches."""
    used = {id_ for case in store.load(folder / "golden").cases for id_ in case.token_ids}
    return np.array([id_ for id_ in range(60) if id_ not in used])


def change(folder: Path, name: str, how: Callable[[np.ndarray], None]) -> None:
    """Change a constant in an artifact's `.onnx` file or in OpenVINO's `.bin`, in place."""
    if (folder / "model.onnx").is_file():
        model = onnx.load(folder / "model.onnx")
        (tensor,) = (one for one in model.graph.initializer if one.name == name)
        array = np.array(numpy_helper.to_array(tensor))
        how(array)
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        (folder / "model.onnx.data").unlink()
        beside = {"save_as_external_data": True, "location": "model.onnx.data"}
        onnx.save(model, folder / "model.onnx", **beside)
        return
    import openvino as ov

    model = ov.Core().read_model(folder / "openvino_model.xml")
    (place,) = (op for op in model.get_ops() if op.get_friendly_name() == name)
    raw = bytearray((folder / "openvino_model.bin").read_bytes())
    at = bytes(raw).index(place.data.tobytes())
    array = np.frombuffer(raw, place.data.dtype, place.data.size, at).reshape(place.data.shape)
    how(array)
    (folder / "openvino_model.bin").write_bytes(raw)


def shuffled(rows: np.ndarray) -> Callable[[np.ndarray], None]:
    def how(array: np.ndarray) -> None:
        array[rows] = array[np.roll(rows, 1)]

    return how


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("what", ["zeroed", "shuffled", "one bit"])
@pytest.mark.parametrize("with_model", [True, False])
def test_rows_that_no_golden_text_touches_are_seen(
    artifacts: dict[str, Path], tiny: Path, tmp_path: Path, target: str, what: str, with_model: bool
) -> None:
    folder = Path(shutil.copytree(artifacts[target], tmp_path / f"{target}-fp32"))
    rows = unseen(folder)

    def how(array: np.ndarray) -> None:
        if what == "one bit":
            array.view(np.uint32)[rows[0], 3] ^= 1
        elif what == "zeroed":
            array[rows] = 0
        else:
            shuffled(rows)(array)

    assert verify(folder, model=tiny if with_model else None).passed
    change(folder, TABLE, how)
    reseal(folder)
    said = sentences(verify(folder, model=tiny if with_model else None))
    assert TABLE in said
    if with_model:
        assert f"row {rows[0] if what != 'shuffled' else min(rows)}, column" in said
        assert "changed when it was written" in said


@pytest.mark.parametrize("target", [ONNXRUNTIME, OPENVINO], ids=lambda target: target.name)
@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_writer_that_writes_another_row_misses_its_gate(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: object,
    precision: str,
) -> None:
    build = type(target).build  # type: ignore[attr-defined]

    def spoiled(self, program: Program, precision: str, folder: Path, options: object):
        for value in program.graph.initializers.values():
            array = constant(value)
            if array is None or value.name is None or not value.name.startswith(TABLE):
                continue
            if array.ndim == 2 and len(array) > 50:
                wrong = np.array(array)
                wrong[[55, 56]] = wrong[[56, 55]]
                value.const_value = ir.tensor(wrong, name=value.name)
        return build(self, program, precision, folder, options)

    monkeypatch.setattr(type(target), "build", spoiled)
    name = target.name  # type: ignore[attr-defined]
    (result,) = export(tiny, [name], [precision], tmp_path / "out", locate=False)
    said = sentences(result)
    assert TABLE in said and "changed when it was written" in said
    assert result.bundle.verdict is not None and result.bundle.verdict.location is not None
    assert result.bundle.verdict.location.kind == "build"


def test_a_pass_that_makes_a_constant_wrong_is_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite = preparing.rewrite

    def spoiled(program: Program, *given: object) -> None:
        rewrite(program, *given)  # type: ignore[arg-type]
        for node in program.graph:
            if node.metadata_props.get(MODULE, "").endswith("mlp.down_proj"):
                weight = node.inputs[1]
                assert weight is not None and weight.const_value is not None
                wrong = np.array(weight.const_value.numpy())
                wrong[0, 0] = np.nextafter(wrong[0, 0], np.float32(9))
                made = ir.tensor(wrong, name=weight.name)
                made.meta.update(weight.const_value.meta)
                weight.const_value = made
                return
        pytest.fail("there is no such node")

    monkeypatch.setattr(exporting, "rewrite", spoiled)
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path / "out", cache=False)
    assert "down_proj" in sentences(result)
    assert result.measurement.worst < 1e-8  # one bit, which no embedding shows
    assert result.bundle.verdict is not None and result.bundle.verdict.location is not None
    location = result.bundle.verdict.location
    assert location.kind in ("trace", "pass") and "down_proj" in location.place


def test_a_graph_that_was_changed_is_seen(artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    norm = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
    (epsilon,) = (one for one in norm.attribute if one.name == "epsilon")
    epsilon.f *= 1.5
    onnx.save(model, folder / "model.onnx")
    reseal(folder)
    assert "Its graph is not the one that was exported" in sentences(verify(folder))


def test_without_derivations_nothing_passes(artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))
    (folder / DERIVATIONS).unlink()
    record = json.loads((folder / "manifest.json").read_bytes())
    del record["files"][DERIVATIONS]
    write_manifest(folder, record)
    assert f"no {DERIVATIONS}" in sentences(verify(folder))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"embed_tokens.weight")', '"nothing")', "nothing"),
        ("tensor(", "later(", "an expression of a newer version of goldfold"),
        ("goldfold.derivations/1", "goldfold.derivations/2", "goldfold.derivations/1"),
    ],
)
def test_derivations_that_are_none_are_one_line(
    artifacts: dict[str, Path], tiny: Path, tmp_path: Path, old: str, new: str, says: str
) -> None:
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))
    text = (folder / DERIVATIONS).read_text("utf-8")
    assert old in text
    (folder / DERIVATIONS).write_text(text.replace(old, new), encoding="utf-8")
    reseal(folder)
    with pytest.raises(ArtifactError) as caught:
        verify(folder, model=tiny)
    assert says in str(caught.value) and len(str(caught.value).splitlines()) == 1
