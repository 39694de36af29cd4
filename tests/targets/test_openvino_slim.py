"""What is folded and shared before OpenVINO's file is written, and what must not be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from goldfold.exporter.passes.pipeline import run as run_passes
from goldfold.targets.openvino import TARGET, build
from goldfold.targets.openvino.model_file import XML
from goldfold.targets.openvino.options import OPEN
from goldfold.targets.openvino.slim import slim
from tests.conftest import Exported
from tests.targets import kernels


def _kinds(model: ov.Model) -> Counter[str]:
    return Counter(op.get_type_name() for op in model.get_ops())


def _run(model: ov.Model, *feeds: np.ndarray) -> np.ndarray:
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)[0]


def _block_map(x: ov.Output) -> ov.Output:
    """x [?, 64] through a matrix in two blocks of 32, as the frontend spells it: the result."""
    rng = np.random.default_rng(3)
    weight = ops.constant(rng.integers(-127, 128, (64, 8)).astype(np.int8))
    rows = ops.reshape(weight, ops.constant(np.array([2, 32, 8])), special_zero=False)
    scale = ops.constant(rng.uniform(0.5, 1.5, (2, 8)).astype(np.float16))
    scales = ops.unsqueeze(ops.convert(scale, "f32"), ops.constant(np.array([1])))
    blocks = ops.multiply(ops.convert(rows, "f32"), scales)
    whole = ops.reshape(blocks, ops.shape_of(weight), special_zero=False)
    return ops.matmul(x, whole, False, False).output(0)


def test_sizes_and_axes_are_worked_out_and_integers_stay() -> None:
    x = ops.parameter([-1, 64], np.float32)
    axes = ops.range(ops.constant(-1), ops.constant(0), ops.constant(1), output_type="i64")
    mean = ops.reduce_mean(ops.multiply(x, x), axes, keep_dims=True)
    model = ov.Model([ops.multiply(_block_map(x.output(0)), mean)], [x], "blocks")
    feed = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    before = _run(model.clone(), feed)
    _held = slim(model)
    kinds = _kinds(model)
    assert not {"Range", "ShapeOf", "Unsqueeze"} & set(kinds)
    assert kinds["Reshape"] == 1  # of what is multiplied, not of the integers
    assert kinds["Convert"] == 2  # of the integers and of their scales
    held = [op.get_element_type() for op in model.get_ops() if op.get_type_name() == "Constant"]
    assert held.count(ov.Type.i8) == held.count(ov.Type.f16) == 1
    assert np.array_equal(_run(model, feed), before)


def test_size_that_a_text_decides_is_asked_for() -> None:
    x = ops.parameter([-1, 4], np.float32)
    model = ov.Model([ops.broadcast(ops.constant(np.float32(2)), ops.shape_of(x))], [x], "size")
    slim(model)
    assert _kinds(model)["ShapeOf"] == 1
    assert _run(model, np.zeros((3, 4), np.float32)).shape == (3, 4)


def test_equal_ops_are_one_but_for_what_the_program_named() -> None:
    x = ops.parameter([-1], np.int64)
    table = ops.constant(np.arange(12, dtype=np.float32).reshape(6, 2) / 7)
    rows = [ops.gather(table, x, ops.constant(np.array(0))) for _ in range(4)]
    rows[3].output(0).get_tensor().set_names({"layers.3.angles"})
    other = ops.gather(table, x, ops.constant(np.array(0)), batch_dims=0)
    total = rows[0]
    for row in (*rows[1:], other):
        total = ops.add(total, row)
    model = ov.Model([total], [x], "angles")
    before = _run(model.clone(), np.array([5, 0, 3]))
    slim(model)
    kinds = _kinds(model)
    assert (kinds["Gather"], kinds["Constant"], kinds["Add"]) == (2, 2, 4)
    assert np.array_equal(_run(model, np.array([5, 0, 3])), before)


def test_ops_that_differ_in_an_attribute_stay_apart() -> None:
    x = ops.parameter([-1, 4, 4], np.float32)
    y = [ops.concat([x, x], axis).output(0) for axis in (1, 2, 2)]
    model = ov.Model([ops.matmul(y[0], ops.add(y[1], y[2]), False, False)], [x], "axes")
    slim(model)
    assert _kinds(model)["Concat"] == 2


def test_real_file_shrinks_and_nothing_that_runs_changes(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, counted, found = [], [], []
    for name in ("slim", "as-it-comes"):
        folder = tmp_path / name
        folder.mkdir()
        program = exported.copy()
        run_passes(program, TARGET.backend_passes("fp32", program.contract, {}))
        TARGET.build(program, "fp32", folder, OPEN)
        monkeypatch.setattr(build, "slim", lambda model: [])
        run = TARGET.load(folder, program.contract, "fp32", 1)
        ids = np.array([[2, 5, 6, 7, 8, 1], [2, 9, 1, 0, 0, 0]])
        sizes.append((folder / XML).stat().st_size)
        counted.append(kernels.counted(folder))
        found.append(run(ids, (ids != 0).astype(np.int64)))
    # A norm's axes alone were four of its some sixteen layers: a seventh of the file is asked for.
    assert sizes[0] < 0.85 * sizes[1]
    assert counted[0] == counted[1]
    assert np.array_equal(found[0], found[1])


def test_what_python_cannot_tell_apart_is_not_shared() -> None:
    x = ops.parameter([-1, 4], np.float32)
    axes = ops.constant(np.array([1]))
    y = [ops.normalize_l2(x, axes, 0.5, mode).output(0) for mode in ("add", "max")]
    model = ov.Model([ops.add(*y)], [x], "modes")
    feed = np.full((1, 4), 0.1, np.float32)
    before = _run(model.clone(), feed)
    slim(model)
    assert _kinds(model)["NormalizeL2"] == 2
    assert np.array_equal(_run(model, feed), before)
