"""Whole models: lowered, saved, read and evaluated, against ONNX Runtime's run of the program."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from goldfold.exporter import registry
from goldfold.exporter.evaluate import interpret, ranges
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.scale_residual import ScaleResidual
from goldfold.exporter.passes.set_precision import SetPrecision
from goldfold.golden.compare import reading
from goldfold.targets.coreml.debug import FiniteWatch
from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.options import CoreMlOptions
from goldfold.targets.coreml.package import read
from tests.conftest import Exported
from tests.exporter.test_half import loud

BUCKETS = (8, 40)
LIMITS = {"fp32": 1e-6, "fp16": 2e-5}
"""1−cos: what users are promised in f32, and fp16's golden gate (golden/gate.py derives it)."""

FAMILIES = ("bert", "mpnet", "roberta", "modernbert", "qwen3")
"""Beside Gemma 3, which the session's export traces."""


@cache
def program_of(kind: str) -> Program:
    import tempfile

    from goldfold.exporter.frontend.simplify import simplify
    from goldfold.exporter.frontend.source import open_model
    from goldfold.exporter.frontend.trace import trace
    from tests import models

    folder = Path(tempfile.mkdtemp()) / kind
    program = trace(open_model(models.build(kind, folder, num_hidden_layers=2)))
    simplify(program)
    pipeline.run(program, (*pipeline.EARLY, *pipeline.common(program.contract)))
    return program


def texts(longest: int = 40) -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [[2, *rng.integers(4, 390, n), 1] for n in (1, 4, 6, 20, longest - 2)]


def batch(ids: list[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    padded = np.zeros((1, width), dtype=np.int64)
    padded[0, : len(ids)] = ids
    return padded, (np.arange(width)[None] < len(ids)).astype(np.int64)


def built(program: Program, precision: str, folder: Path, options: CoreMlOptions):
    """The opened artifact of a copy of `program`."""
    target = registry.target("coreml")
    copy = program.copy()
    if precision == "fp16":
        peaks = ranges.record(program, texts())
        pipeline.run(copy, pipeline.half("fp16", peaks, typed=True))
    options = target.settle(precision, options, program.contract.max_length)
    folder.mkdir()
    target.build(copy, precision, folder, options)
    return target.load(folder, target.narrow(program.contract, options), precision, 1)


def check(program: Program, precision: str, folder: Path, options: CoreMlOptions) -> None:
    """Each text as short as it is, in the shortest bucket, and padded to the longest."""
    run = built(program, precision, folder, options)
    reference = interpret.runner(program)
    for ids in texts():
        (wanted,) = reference(*batch(ids, len(ids)))
        for width in (len(ids), BUCKETS[-1]):
            (found,) = run(*batch(ids, width))
            assert np.isfinite(found).all()
            assert reading(wanted, found).distance <= LIMITS[precision], (len(ids), width)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_family(kind: str, precision: str, tmp_path: Path) -> None:
    check(program_of(kind), precision, tmp_path / "x", CoreMlOptions(buckets=BUCKETS))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gemma(exported: Exported, precision: str, tmp_path: Path) -> None:
    check(exported.program, precision, tmp_path / "x", CoreMlOptions(buckets=BUCKETS))


@pytest.mark.parametrize("kind", ["bert", "mpnet", "modernbert", "qwen3"])
def test_flexible_lengths(kind: str, tmp_path: Path) -> None:
    check(program_of(kind), "fp32", tmp_path / "x", CoreMlOptions(flexible=True))


def test_flexible_gemma(exported: Exported, tmp_path: Path) -> None:
    check(exported.program, "fp16", tmp_path / "x", CoreMlOptions(flexible=True))


def test_older_systems(exported: Exported, tmp_path: Path) -> None:
    options = CoreMlOptions(buckets=BUCKETS[-1:], minimum_target="iOS16")
    check(exported.program, "fp16", tmp_path / "x", options)
    assert read(tmp_path / "x" / "model.mlpackage").system == 7


def test_beyond_the_window(exported: Exported, tmp_path: Path) -> None:
    """Gemma's window is 257 here: a text of 300 has tokens that do not see each other."""
    run = built(exported.program, "fp16", tmp_path / "x", CoreMlOptions(buckets=(300,)))
    (ids,) = texts(300)[-1:]
    (wanted,) = interpret.runner(exported.program)(*batch(ids, 300))
    (found,) = run(*batch(ids, 300))
    assert reading(wanted, found).distance <= LIMITS["fp16"]
    (short,) = run(*batch([2, 50, 1], 3))
    (wanted,) = interpret.runner(exported.program)(*batch([2, 50, 1], 3))
    assert reading(wanted, short).distance <= LIMITS["fp16"]


def test_an_unscaled_stream_overflows_and_is_named(
    exported: Exported, tmp_path: Path, half_stream: None
) -> None:
    """The disease that scale-residual cures, in a saved package: a stream 2^16 times as large."""
    sick = loud(exported, 2.0**16)
    target = registry.target("coreml")
    options = CoreMlOptions(buckets=(40,))
    ids, mask = batch(texts()[-1], 40)
    feeds = {"input_ids": ids, "attention_mask": mask}
    (wanted,) = interpret.runner(exported.program)(ids, mask)
    found = {}
    for name, laws in (
        ("sick", (SetPrecision("fp16"),)),
        ("healed", (ScaleResidual(tuple(ranges.record(sick, texts()).items())),
                    SetPrecision("fp16"))),
    ):  # fmt: skip
        typed = sick.copy()
        pipeline.run(typed, laws)
        (tmp_path / name).mkdir()
        settled = target.settle("fp16", options, sick.contract.max_length)
        target.build(typed, "fp16", tmp_path / name, settled)
        watch = FiniteWatch()
        package = read(tmp_path / name / "model.mlpackage")
        (row,) = Evaluator(package)(feeds, watch)["sentence_embedding"]
        found[name] = (row, watch.found)
    row, bad = found["sick"]
    assert bad is not None
    assert not np.isfinite(row).all()
    assert bad.kind.startswith("fp16")
    assert bad.value.startswith("transformer_")
    row, bad = found["healed"]
    assert bad is None
    assert reading(wanted, row).distance <= LIMITS["fp16"]
