"""Static shapes on OpenVINO: one file, the same embeddings, nothing compiled that was not asked
for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.errors import TargetError
from goldfold.exporter.evaluate.batches import pad
from goldfold.exporter.passes.pipeline import run as run_passes
from goldfold.targets.openvino import TARGET, run
from goldfold.targets.openvino.model_file import XML
from goldfold.targets.openvino.options import OpenVinoOptions
from goldfold.targets.openvino.shapes import Shapes
from tests import models
from tests.conftest import Exported

LENGTHS = (3, 8, 9, 20, 40)


@pytest.fixture(scope="module")
def built(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts a call, 8 or 24 tokens."""
    folder = tmp_path_factory.mktemp("static")
    program = exported.copy()
    run_passes(program, TARGET.backend_passes("fp32", program.contract, {}))
    options = TARGET.settle(
        "fp32", OpenVinoOptions(batch=2, buckets=(24, 8, 24)), models.MAX_LENGTH
    )
    TARGET.build(program, "fp32", folder, options)
    return folder


def test_file_holds_every_shape_once(built: Path, artifacts: dict[str, Path]) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["openvino_model.bin", XML]
    assert (built / "openvino_model.bin").read_bytes() == (
        artifacts["openvino"] / "openvino_model.bin"
    ).read_bytes()
    model = ov.Core().read_model(built / XML)
    assert Shapes.of(model) == Shapes(2, (8, 24))
    assert all(port.partial_shape.is_dynamic for port in model.inputs)
    assert Shapes.of(ov.Core().read_model(artifacts["openvino"] / XML)) == Shapes()


def test_static_shapes_give_what_open_ones_give(
    built: Path, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = open_bundle(artifacts["openvino"]).manifest.contract
    compiled: list[str] = []
    compile_model = run._compile

    def noted(model: ov.Model, *args):
        compiled.append(str(model.inputs[0].partial_shape))
        return compile_model(model, *args)

    monkeypatch.setattr(run, "_compile", noted)
    static = TARGET.load(built, contract, "fp32", 1)
    assert compiled == []  # each shape when it is first needed
    calls = []
    for rows in ((0,), (0, 1), (2, 1, 3), (2, 3, 3, 0, 1), (4, 0), (0, 0, 1)):
        rng = np.random.default_rng(7)
        texts = [[2, *rng.integers(4, models.VOCAB_SIZE, LENGTHS[r] - 2), 1] for r in rows]
        calls.append(pad(texts, contract.pad_id))
    found = [static(*call) for call in calls]
    assert compiled == ["[2,8]", "[2,24]", "[2,?]"]
    opened = TARGET.load(artifacts["openvino"], contract, "fp32", 1)
    for call, rows in zip(calls, found, strict=True):
        np.testing.assert_allclose(rows, opened(*call), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "culprit"),
    [
        (OpenVinoOptions(batch=0), "batch of 0"),
        (OpenVinoOptions(buckets=(0,)), "0 tokens; the model takes 1 … 600"),
        (OpenVinoOptions(buckets=(128, 601)), "601 tokens"),
    ],
)
def test_shapes_that_cannot_be_are_refused(asked: OpenVinoOptions, culprit: str) -> None:
    with pytest.raises(TargetError, match=culprit):
        TARGET.settle("fp32", asked, models.MAX_LENGTH)
