"""The residual stream and routers in f32 under a bf16 hint: what is marked, and that the plugin
heeds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.passes.pipeline import run as run_passes
from goldfold.golden import compare, store
from goldfold.targets.openvino import TARGET, markup, precise
from goldfold.targets.openvino.model_file import XML
from goldfold.targets.openvino.options import OPEN
from tests.conftest import Exported


@pytest.fixture(scope="module")
def built(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bf16")
    program = exported.copy()
    run_passes(program, TARGET.backend_passes("bf16", program.contract, {}))
    TARGET.build(program, "bf16", folder, OPEN)
    return folder


def test_additions_to_the_stream_are_marked_and_nothing_else(
    built: Path, artifacts: dict[str, Path]
) -> None:
    model = ov.Core().read_model(built / XML)
    names = precise.stream(model)
    layers = [op for op in model.get_ops() if op.get_type_name() == "Gelu"]
    assert len(names) == 2 * len(layers)  # after attention, and after the feed-forward half
    text, plain = ((folder / XML).read_text("utf-8") for folder in (built, artifacts["openvino"]))
    mark = markup.note(precise.MARK)
    assert text.count(mark) == len(names)
    assert text.replace(mark, "") == plain


def test_stream_is_computed_in_f32_and_comes_closer(
    built: Path, artifacts: dict[str, Path]
) -> None:
    if not TARGET.executes("bf16"):
        pytest.skip("this CPU does not compute in bf16")
    contract = open_bundle(artifacts["openvino"]).manifest.contract
    goldens = store.load(artifacts["openvino"] / "golden").within(300)
    mean = {}
    for folder in (artifacts["openvino"], built):
        run = TARGET.load(folder, contract, "bf16", 1)
        mean[folder] = compare.measure(run, goldens, pad_id=contract.pad_id).mean
    assert np.isfinite(list(mean.values())).all()
    assert mean[built] < 0.9 * mean[artifacts["openvino"]]


def test_scores_of_a_choice_are_marked_from_their_linear_map_on() -> None:
    from openvino import opset13 as ops

    x = ops.parameter([-1, 4], np.float32, name="x")
    norm = ops.multiply(x, ops.constant(np.ones(4, np.float32)))
    scores = ops.matmul(norm, ops.constant(np.ones((4, 3), np.float32)), False, False)
    shares = ops.softmax(scores, 1)
    best = ops.topk(shares, ops.constant(2), 1, "max", "value")
    model = ov.Model([best.output(0)], [x])
    wanted = {op.get_friendly_name() for op in (scores, shares)}
    assert precise.choices(model) == wanted
