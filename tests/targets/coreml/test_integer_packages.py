"""A whole quantized program as a Core ML package: its bytes, its size, what stays fp16, and what
coremltools reads of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from goldfold.exporter import registry
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.quantize_activations import QuantizeActivations
from goldfold.exporter.passes.rewriting.grid import Grid
from goldfold.targets.coreml.evaluate import Evaluator, Widened
from goldfold.targets.coreml.layout import DATA, WEIGHTS
from goldfold.targets.coreml.lower import vendor
from goldfold.targets.coreml.options import CoreMlOptions
from goldfold.targets.coreml.package import read
from tests.exporter import small
from tests.exporter.quantize import rounded
from tests.targets.coreml.mil import ops, stored

TARGET = registry.target("coreml")


def quantized(bits: int = 8, block: int = 0) -> Program:
    """The small program in integers, in half precision around them."""
    program = small.program()
    laws = [rounded.law(program.model, Grid(bits, block))]
    scales = (("h", 0.0625),)
    pipeline.run(program, [*laws, *([] if block or bits == 4 else [QuantizeActivations(scales)])])
    pipeline.run(
        program, pipeline.half(TARGET.fallback, {}, TARGET.strongly_typed, TARGET.integer_sums)
    )
    pipeline.run(program, TARGET.backend_passes(TARGET.fallback, program.contract, {}))
    return program


def build(folder: Path, program: Program, **asked: tuple[int, ...]) -> Path:
    settled = TARGET.settle("fp16", CoreMlOptions(**asked), program.contract.max_length)  # type: ignore[arg-type]
    folder.mkdir()
    TARGET.build(program, "fp16", folder, settled)
    return folder / "model.mlpackage"


@pytest.mark.parametrize(("bits", "block"), [(8, 0), (8, 8), (4, 8)])
def test_two_builds_of_integers_give_the_same_bytes(bits: int, block: int, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        path = build(tmp_path / name, quantized(bits, block), buckets=(4, 16))
        files = sorted(file for file in path.rglob("*") if file.is_file())
        made.append([(file.relative_to(path), file.read_bytes()) for file in files])
    assert made[0] == made[1] and len(made[0]) == 3


def test_functions_share_integers_and_are_opened_once(tmp_path: Path) -> None:
    path = build(tmp_path / "built", quantized(8, 8), buckets=(4, 16))
    package = read(path)
    short, long = (stored(package.functions[f"tokens_{n}"]) for n in (4, 16))
    assert len(short) == len(long) == 3  # two matrices and the table
    assert all(np.shares_memory(a, b) for a, b in zip(short, long, strict=True))
    widened = Widened()
    for name, width in (("tokens_4", 4), ("tokens_16", 16)):
        feeds = {n: np.ones((1, width), int) for n in ("input_ids", "attention_mask")}
        Evaluator(package, name, "declared", widened)(feeds)
    opened = [key for key in widened.made if key[0] == "constexpr_blockwise_shift_scale"]
    assert len(opened) == 2
    # int8, and fp16 scales for each 8 of 40 numbers, and a scale a row of the table.
    numbers = 2 * small.DIM**2 + small.VOCAB_SIZE * small.DIM
    single = build(tmp_path / "single", quantized(8, 8), buckets=(4,))
    size = (single / DATA / WEIGHTS).stat().st_size
    assert numbers < size < numbers * (1 + 2 / 8) + 64 * 20


def test_integer_products_are_fp16_between_their_steps(tmp_path: Path) -> None:
    """Activations are rounded from f32 and come back as fp16, which `linear` then reads."""
    function = read(build(tmp_path / "built", quantized(), buckets=(4,))).function()
    made = {name: kind.word for op in function.operations for name, kind in op.outputs}
    linears = [op for op in function.operations if op.op == "linear"]
    steps = [op for op in function.operations if op.op in ("quantize", "dequantize")]
    assert [op.op for op in steps] == ["quantize", "dequantize"]
    assert made[steps[0].inputs["input"].name] == "fp32"
    assert len(linears) == 2
    for op in linears:
        assert op.inputs["x"].name == steps[1].outputs[0][0]
        assert op.outputs[0][1].word == "fp16"
        assert made[op.inputs["weight"].name] == "fp16"


@pytest.mark.parametrize(("bits", "block"), [(8, 0), (4, 8)])
def test_coremltools_takes_the_written_program(bits: int, block: int, tmp_path: Path) -> None:
    """It reads every operation back and infers all types and shapes anew."""
    from coremltools.converters.mil.frontend.milproto.load import load

    path = build(tmp_path / "built", quantized(bits, block), buckets=(4,))
    spec = vendor.coremltools().utils.load_spec(str(path))
    assert spec.specificationVersion == 9
    program = load(spec, 9, str(path / DATA / "weights"))
    program.validate()
    theirs = [op.op_type for op in program.functions["main"].operations]
    for op, count in ops(read(path)).items():
        assert theirs.count(op) == count
    for op in program.functions["main"].operations:
        if op.op_type == "constexpr_blockwise_shift_scale":
            assert np.isfinite(op.materialized_val_inference()).all()


def test_a_floating_export_of_the_same_is_larger(tmp_path: Path) -> None:
    floating = small.program()
    pipeline.run(floating, pipeline.half("fp16", {}, typed=True))
    sizes = [
        (build(tmp_path / name, program, buckets=(16,)) / DATA / WEIGHTS).stat().st_size
        for name, program in (("fp16", floating), ("int8", quantized()), ("int4", quantized(4, 8)))
    ]
    numbers = 2 * small.DIM**2 + small.VOCAB_SIZE * small.DIM
    scales = 2 * numbers // 8  # bytes; of blocks, that is
    assert sizes[0] - sizes[1] > 0.8 * numbers
    assert sizes[1] - sizes[2] > 0.8 * (numbers / 2 - scales)
