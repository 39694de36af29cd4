"""Integer weights that OpenVINO multiplies out once, when it compiles: what the compiled model holds,
and that nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.pipeline import run as run_passes
from goldfold.exporter.passes.quantize_weights import DYNAMIC, Held, QuantizeWeights
from goldfold.exporter.passes.rewriting.grid import Grid, Quantized, nearest
from goldfold.exporter.passes.round_weights import RoundWeights
from goldfold.targets.openvino import TARGET, markup, serving, worked_out
from goldfold.targets.openvino.model_file import GROUP, XML
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


def _compiled(folder: Path, hint: str = "bf16") -> ov.CompiledModel:
    """Compiled as a stranger does, from the file alone."""
    options = {"INFERENCE_PRECISION_HINT": hint}
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


def _run(folder: Path, hint: str = "bf16") -> np.ndarray:
    ids = np.array([[2, 5, 6, 7, 8, 1], [2, 9, 1, 0, 0, 0]])
    feeds = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
    return np.array(_compiled(folder, hint)(feeds)[0])


def test_maps_are_held_in_bf16_and_the_table_in_integers(built: tuple[Path, Path]) -> None:
    once, narrow = built
    maps, others = _held(once)
    print(maps, others, _held(narrow))
    assert set(maps) == {"bf16"}
    assert others["i8"] == 1  # the table
    kept = _held(narrow)[0]
    assert INTEGERS & set(kept)  # what the plugin does by itself: the pass is not for nothing
