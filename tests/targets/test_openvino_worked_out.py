"""Integer weights that OpenVINO multiplies out once, when it compiles: what the compiled model
holds, and that nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.pipeline import run as run_passes
from goldfold.exporter.passes.quantize_weights import DYNAMIC, Held, QuantizeWeights
from goldfold.exporter.passes.rewriting.grid import Grid, Quantized, nearest
from goldfold.exporter.passes.round_weights import RoundWeights
from goldfold.golden.gate import GATES
from goldfold.targets.openvino import TARGET, markup, worked_out
from goldfold.targets.openvino.model_file import XML
from goldfold.targets.openvino.options import OPEN
from tests.conftest import Exported

BLOCK = 16
INTEGERS = {"i8", "u8", "i4", "u4"}


@pytest.fixture(scope="module", autouse=True)
def computes_in_bf16() -> None:
    if not TARGET.executes("bf16"):
        pytest.skip("this CPU does not compute in bf16")


def _quantized(exported: Exported, bits: int, dynamic: int = 0) -> Program:
    """The tiny program, its maps in `bits` bits, its table in 8, all in blocks."""
    program, pass_ = exported.copy(), QuantizeWeights()
    plan: dict[str, Quantized] = {}
    for node in program.graph:
        held = pass_.match(node)
        if isinstance(held, Held) and held.stored.const_value is not None:
            matrix = held.stored.const_value.numpy()
            grid = Grid(8 if node.op_type == "Gather" else bits, 0 if dynamic else BLOCK)
            plan[held.stored.name or ""] = nearest(matrix.T if held.transposed else matrix, grid)
    QuantizeWeights(plan).rewrite(program.model)
    if dynamic:
        program.graph.metadata_props[DYNAMIC] = str(dynamic)
    return program


def _built(program: Program, folder: Path, rounds: bool = True, precision: str = "bf16") -> Path:
    folder.mkdir()
    copy = program.copy()
    passes = TARGET.backend_passes(precision, copy.contract, {})
    run_passes(copy, [one for one in passes if rounds or not isinstance(one, RoundWeights)])
    TARGET.build(copy, precision, folder, OPEN)
    return folder


@pytest.fixture(scope="module", params=[8, 4])
def built(
    request: pytest.FixtureRequest, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The artifact's file, and the one that an export without the pass writes."""
    program, folder = _quantized(exported, request.param), tmp_path_factory.mktemp("worked-out")
    return _built(program, folder / "once"), _built(program, folder / "narrow", rounds=False)


def _read(folder: Path) -> ov.Model:
    return ov.Core().read_model(folder / XML)


def _compiled(folder: Path, hint: str = "bf16", profile: bool = False) -> ov.CompiledModel:
    """Compiled as a stranger does, from the file alone."""
    options = {"INFERENCE_PRECISION_HINT": hint, "PERF_COUNT": profile}
    return ov.Core().compile_model(folder / XML, "CPU", options)


def _said(op: ov.Node, key: str) -> str:
    return str(op.get_rt_info()[key].astype(str))


def _held(folder: Path, hint: str = "bf16") -> tuple[Counter[str], Counter[str]]:
    """The types of large constants that linear maps read in the compiled model, and of those that
    others do."""
    maps: Counter[str] = Counter()
    others: Counter[str] = Counter()
    ops = _compiled(folder, hint).get_runtime_model().get_ordered_ops()
    for op in ops:
        if _said(op, "layerType") != "Const" or np.prod(op.get_output_shape(0)) < 256:
            continue
        readers = [port.get_node() for port in op.output(0).get_target_inputs()]
        while readers and _said(readers[0], "layerType") in ("Transpose", "Reorder", "Convert"):
            readers = [port.get_node() for port in readers[0].output(0).get_target_inputs()]
        kinds = {_said(reader, "layerType") for reader in readers}
        (maps if kinds == {"FullyConnected"} else others)[_said(op, "outputPrecisions")] += 1
    return maps, others


def _feeds() -> dict[str, np.ndarray]:
    ids = np.array([[2, 5, 6, 7, 8, 1], [2, 9, 1, 0, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


def _run(folder: Path, hint: str = "bf16") -> np.ndarray:
    return np.array(_compiled(folder, hint)(_feeds())[0], np.float64)


def test_maps_are_held_in_bf16_and_the_table_in_integers(built: tuple[Path, Path]) -> None:
    once, narrow = built
    maps, others = _held(once)
    assert set(maps) == {"bf16"} and maps["bf16"] == len(worked_out.weights(_read(once)))
    assert others["i8"] == 1  # the table
    assert INTEGERS & set(_held(narrow)[0])  # where it fails, the plugin needs no help any more


def test_no_weight_is_worked_out_in_a_call(built: tuple[Path, Path]) -> None:
    once, _ = built
    request = _compiled(once, profile=True).create_infer_request()
    request.infer(_feeds())
    ran = {one.node_name for one in request.profiling_info if one.status == one.Status.EXECUTED}
    known = {op.get_friendly_name() for op in _read(once).get_ops() if worked_out.is_constant(op)}
    assert ran and known and not ran & known


def test_embeddings_are_those_of_integers(built: tuple[Path, Path]) -> None:
    """In bf16 all stays as close as its gate asks. In f32 the file alone rounds: the weights, to
    2^-9 of each, whose square bounds 1−cos where a layer does not make errors larger than 8 times
    what they were."""
    once, narrow = built
    exact = _run(narrow, "f32")
    assert (1 - (_run(once) * exact).sum(axis=1)).max() < GATES["bf16"].worst
    rounded = 1 - (_run(once, "f32") * exact).sum(axis=1)
    assert 1e-9 < rounded.max() < (8 * 2.0**-9) ** 2 / 2


def _weights(spells: bool, tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Integers times scales as a linear map reads them in a compiled file, and as bf16 has them."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(-127, 128, (256, 64)).astype(np.int8)
    scale = rng.uniform(1e-3, 2e-3, (1, 64)).astype(np.float32)
    x = ops.parameter([-1, 256], np.float32)
    product = ops.multiply(ops.convert(ops.constant(numbers), "f32"), ops.constant(scale))
    wide = ops.convert(ops.convert(product, "bf16"), "f32")
    model = ov.Model([ops.matmul(x, wide, False, False)], [x], "weights")  # type: ignore[misc]
    if spells:
        worked_out.spell(model)
    names = worked_out.weights(model)
    assert len(names) == 1
    ov.save_model(model, tmp_path / XML, compress_to_fp16=False)
    markup.mark(tmp_path / XML, names, worked_out.MARK)
    expected = (numbers * scale).astype(ml_dtypes.bfloat16).astype(np.float32)
    return _compiled(tmp_path, "f32")(np.eye(256, dtype=np.float32))[0], expected


def test_weights_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    found, expected = _weights(True, tmp_path)
    assert np.array_equal(found, expected)


def test_plugin_s_own_conversion_still_truncates(tmp_path: Path) -> None:
    """Where this fails, the plugin rounds, and nothing need be spelled in front of it."""
    found, expected = _weights(False, tmp_path)
    assert (abs(found) < abs(expected)).mean() > 0.1


def test_file_of_weights_keeps_its_size(built: tuple[Path, Path]) -> None:
    once, narrow = ((folder / XML).with_suffix(".bin").stat().st_size for folder in built)
    assert once - narrow <= 4  # one number, by which all are rounded


def test_server_s_copy_keeps_the_marks(built: tuple[Path, Path], tmp_path: Path) -> None:
    once, _ = built
    ov.save_model(_read(once), tmp_path / XML, compress_to_fp16=False)
    kept = markup.marked(tmp_path / XML, worked_out.MARK)
    assert kept == markup.marked(once / XML, worked_out.MARK) == worked_out.weights(_read(once))


def test_products_of_integers_stay(exported: Exported, tmp_path: Path) -> None:
    program = _quantized(exported, 8, dynamic=32)
    with_pass = _built(program, tmp_path / "with")
    without = _built(program, tmp_path / "without", rounds=False)
    assert INTEGERS & set(_held(with_pass)[0])
    assert (with_pass / XML).read_bytes() == (without / XML).read_bytes()


def test_weights_around_which_f32_is_asked_for_stay(exported: Exported, tmp_path: Path) -> None:
    folder = _built(_quantized(exported, 8), tmp_path / "close", precision="fp32")
    assert not markup.marked(folder / XML, worked_out.MARK)
    assert INTEGERS & set(_held(folder, "f32")[0])
