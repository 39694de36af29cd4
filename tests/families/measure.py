"""One model through the public export for every target, and what it shows: a row of the page.

The reference is sentence-transformers, as everywhere, on few golden texts (tasks.py). For
TensorRT the file that its compiler would read is parsed by NVIDIA's own parser and measured in
ONNX Runtime and the emulator; no engine is built.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from goldfold import export
from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import Manifest
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import exporting, preparing
from goldfold.exporter.evaluate import emulate, interpret
from goldfold.exporter.ir import onnx_file
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.progress import Stages
from goldfold.golden import compare, store
from goldfold.golden.gate import gate_for, judge
from goldfold.golden.store import Goldens
from goldfold.golden.tasks import EMBEDDING, ROUNDINGS, SCORES
from tests.families.families import Family
from tests.families.tasks import Model, buckets_of, few, task_of

PRECISIONS = ("fp32", "fp16")
TARGETS = ("onnxruntime", "openvino", "coreml")

Figures = dict[tuple[str, str], float]
"""(target, precision) → the figure of the model's task (page.py), of the worst text, alone or
padded, against sentence-transformers."""


@dataclass(frozen=True)
class Shown:
    """What a family showed."""

    figures: Figures
    attention: dict[str, int]
    notes: tuple[str, ...]
    applied: dict[str, int]
    refused: dict[str, int]
    """"law: reason" → at how many places."""
    census: dict[str, int]


class Missed(AssertionError):
    """An artifact that its gate does not let through."""


def here() -> tuple[str, ...]:
    """The targets that this machine can build for."""
    return tuple(t for t in (*TARGETS, "tensorrt") if registry.target(t).unavailable() is None)


def show(family: Family | Model, scratch: Path) -> Shown:
    """Export `family` for all targets here, hold each artifact to its gate, and say what was seen.

    Raises Missed, with the gate's own sentence, for an artifact that misses it.
    """
    folder = family.build(scratch / "model")
    with few(task_of(family)), _kept() as kept:
        results = export(
            folder,
            [target for target in TARGETS if target in here()],
            PRECISIONS,
            scratch / "out",
            cache=False,
            build={"buckets": buckets_of(family)} if "coreml" in here() else {},
            route=getattr(family, "route", None),
        )
    figures: Figures = {}
    for result in results:
        if not result.passed:
            raise Missed(f"{result.path.name}: {result.verdict.sentences[0]}")
        manifest = result.bundle.manifest
        figures[manifest.target, manifest.precision] = _worst(result)
    if "tensorrt" in here():
        goldens = store.load(results[0].path / "golden")
        for precision in PRECISIONS:
            figures["tensorrt", precision] = _parsed(kept[0], precision, goldens, scratch)
    # The portable artifact in half precision has seen every law that is no single target's.
    half = next(m for r in results if _named(m := r.bundle.manifest) == ("onnxruntime", "fp16"))
    return Shown(
        figures=figures,
        attention=half.attention,
        notes=half.notes,
        applied={report.name: report.applied for report in half.passes if report.applied},
        refused=_refused(half),
        census=half.census,
    )


@contextmanager
def _kept() -> Iterator[list[Program]]:
    """The program before any target's laws, kept beside the export."""
    kept: list[Program] = []
    rewrite = exporting.rewrite

    def keep(program: Program, *given) -> None:
        rewrite(program, *given)
        kept.append(program.copy())

    with patch.object(exporting, "rewrite", keep):
        yield kept


def _named(manifest: Manifest) -> tuple[str, str]:
    return manifest.target, manifest.precision


def _worst(result: Result) -> float:
    """The largest figure of an artifact, and of the emulator where that is the proof."""
    verdict = result.bundle.verdict
    assert verdict is not None
    proofs = [verdict.measurement, *([verdict.emulated] if verdict.emulated else [])]
    return max(proof.larger for proof in proofs)


def _refused(manifest: Manifest) -> dict[str, int]:
    """Refusals without their places."""
    counts: Counter[str] = Counter()
    for report in manifest.passes:
        for line in report.refused:
            _, _, reason = line.removeprefix(f"{report.name}: refused at ").partition(": ")
            counts[f"{report.name}: {reason}"] += 1
    return dict(sorted(counts.items()))


def _parsed(program: Program, precision: str, goldens: Goldens, scratch: Path) -> float:
    """The worst figure of the file that TensorRT's compiler would read, after it has parsed it.

    Raises Missed if NVIDIA's parser refuses it, in its own words, or if it misses the gate.
    """
    target = registry.target("tensorrt")
    own = program.copy()
    peaks: dict[str, float] = {}
    if pipeline.asks_ranges(precision, target.strongly_typed):
        peaks = preparing.record_ranges(program.copy(), Stages(None))
    reach = preparing.bounds_for(own, [("tensorrt", precision)], Stages(None))
    pipeline.run(own, (*pipeline.half(precision, peaks, target.strongly_typed, bounds=reach),))
    pipeline.run(own, target.backend_passes(precision, own.contract, peaks))
    folder = scratch / f"tensorrt-{precision}"
    folder.mkdir()
    onnx_file.write(own, folder, "tensorrt")
    # In a process of its own: a crash of NVIDIA's library is then an error like others.
    command = [sys.executable, "-P", str(Path(__file__).parent / "parse.py")]
    done = subprocess.run([*command, str(folder / onnx_file.MODEL)], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Missed(f"tensorrt-{precision}: {said}")
    run = interpret.runner(own) if precision == "fp32" else emulate.runner(own)
    measurement = compare.measure(run, goldens, pad_id=own.contract.pad_id)
    verdict = judge(measurement, [], precision, goldens)
    if not verdict.passed:
        raise Missed(f"tensorrt-{precision}: {verdict.sentences[0]}")
    return max(measurement.worst, measurement.worst_padded)


def limit(precision: str, task: str = EMBEDDING) -> float:
    """The most that a gate lets through: of scores in fp32, a limit that follows the reference's
    own rounding."""
    worst = gate_for(precision, task).worst
    return max(worst, ROUNDINGS * store.ROUNDING) if task == SCORES else worst
