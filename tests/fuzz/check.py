"""One architecture through the public path: saved, opened, traced, rewritten by every law there is,
and compared with sentence-transformers.

Everything is computed in f32, so the limit is the gate of fp32 (golden/gate.py), a hundred times
tighter than the 1e-6 that is promised. It holds alone and padded, for the program after the common
laws and after each target's own, and for the program whose residual stream is scaled as fp16 wants
it, which by law gives the same bits. Targets that are asked for are built and run as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from goldfold.exporter import options as options_of
from goldfold.exporter import registry
from goldfold.exporter.contract import Contract, Run
from goldfold.exporter.driver import preparing
from goldfold.exporter.evaluate import interpret, ranges
from goldfold.exporter.frontend.source import check_finite, open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.band_local_attention import BandLocalAttention
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.scale_residual import ScaleResidual
from goldfold.exporter.progress import Stages
from goldfold.golden.compare import reading
from goldfold.golden.gate import GATES
from tests import models
from tests.fuzz.architecture import Architecture

LIMIT = GATES["fp32"].worst
TARGETS = ("onnxruntime", "openvino", "tensorrt", "coreml")
LOUD = 2.0**12
"""By how much the recorded peaks are overstated, so that scale-residual finds work to do."""


class Wrong(AssertionError):
    """An architecture whose export is not what the model says, or is refused."""


@dataclass(frozen=True)
class Found:
    """What one architecture showed."""

    worst: float
    """The largest 1−cos of any text, alone or padded, of any program."""
    applied: dict[str, int]
    """How often each law applied."""
    attention: str
    """"band", or "eager"."""


def check(architecture: Architecture, targets: Sequence[str] = ()) -> Found:
    """Build, export and compare, and build for `targets` too. Raises Wrong, saying where, if
    anything is off."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = architecture.build(Path(scratch) / "model")
        ids, mask = batch(architecture)
        wanted = references(folder, ids, mask)
        passes = Pipeline()
        source = open_model(folder)
        check_finite(source)
        program = preparing.prepare(
            source,
            Stages(None),
            passes,
            max_length=architecture.max_length,
            dims=architecture.dims,
        )
        worst = 0.0
        for name, variant in variants(program, passes, ids[0, : mask[0].sum()]):
            run = interpret.runner(variant)
            worst = max(worst, compare(name, run, variant.contract, ids, mask, wanted))
        for name in targets:
            run = built(program, name, ids.shape[1], Path(scratch) / name)
            worst = max(worst, compare(name, run, program.contract, ids, mask, wanted))
    applied: dict[str, int] = {}
    for report in passes.reports:
        applied[report.name] = applied.get(report.name, 0) + report.applied
    return Found(worst, applied, "band" if program.attention() else "eager")


def batch(architecture: Architecture) -> tuple[np.ndarray, np.ndarray]:
    """The drawn texts as one padded batch (token ids, mask)."""
    width = max(architecture.lengths) + architecture.padding
    ids = np.zeros((len(architecture.lengths), width), dtype=np.int64)
    rng = np.random.default_rng(architecture.seed)
    for row, length in enumerate(architecture.lengths):
        ids[row, :length] = rng.integers(4, models.VOCAB_SIZE, length)
    return ids, (ids > 0).astype(np.int64)


def references(folder: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What sentence-transformers says of each text alone; f64 [B,D]."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).eval()
    rows = []
    for row in range(len(ids)):
        length = int(mask[row].sum())
        features = {
            "input_ids": torch.tensor(ids[[row], :length]),
            "attention_mask": torch.tensor(mask[[row], :length]),
        }
        with torch.no_grad():
            rows.append(model(features)["sentence_embedding"][0].double().numpy())
    return np.stack(rows)


def variants(program: Program, passes: Pipeline, text: np.ndarray) -> Iterator[tuple[str, Program]]:
    """The program after the common laws, scaled for fp16 as if `text` were loud, and after each
    target's own laws."""
    yield "the common laws", program
    peaks = {name: LOUD * peak for name, peak in ranges.record(program, [text.tolist()]).items()}
    scaled = program.copy()
    passes.run(scaled, (ScaleResidual(tuple(peaks.items())),))
    yield "scale-residual", scaled
    seen = []
    for name in TARGETS:
        laws = registry.target(name).backend_passes("fp32", program.contract, {})
        if laws and laws not in seen:
            seen.append(laws)
            own = program.copy()
            passes.run(own, laws)
            yield f"{name}'s laws", own
    # A drawn text is too short for the blocks that targets ask for.
    blocks = BandLocalAttention(program.contract.max_length, block=4, start=8)
    own = program.copy()
    if any(report.applied for report in passes.run(own, (blocks, ExpandBandAttention()))[:1]):
        yield "band-local-attention", own


def built(program: Program, name: str, width: int, folder: Path) -> Run:
    """The opened artifact of a target, its files in `folder`; of static length `width` where the
    target wants one."""
    target = registry.target(name)
    asked = options_of.own(target.Options, {"buckets": (width,)})
    options = target.settle("fp32", asked, program.contract.max_length)
    own = program.copy()
    pipeline.run(own, target.backend_passes("fp32", own.contract, {}))
    folder.mkdir()
    target.build(own, "fp32", folder, options)
    return target.load(folder, target.narrow(program.contract, options), "fp32", 1)


def compare(
    name: str,
    run: Run,
    contract: Contract,
    ids: np.ndarray,
    mask: np.ndarray,
    wanted: np.ndarray,
) -> float:
    """The worst 1−cos of all heads and texts, alone and padded. Raises Wrong over the limit."""
    worst = 0.0
    for dim in (contract.dim, *contract.heads):
        output = contract.output_of(dim)
        padded = run(ids, mask, output)
        for row, length in enumerate(mask.sum(1)):
            golden = wanted[row, :dim]
            alone = run(ids[[row], :length], mask[[row], :length], output)[0]
            for way, found in (("alone", alone), ("padded", padded[row])):
                if not golden.any():  # a head of few dimensions behind a ReLU: no direction
                    if found.any():
                        raise Wrong(f"after {name}, {output} of text {row} ({way}) is not zero")
                    continue
                read = reading(found.astype(np.float64), golden)
                if found.shape != golden.shape or not read.distance <= LIMIT:
                    raise Wrong(
                        f"after {name}, {output} of text {row} ({length} tokens, {way}): "
                        f"1−cos is {read.distance:.1e}, over {LIMIT:.0e}"
                    )
                if contract.normalized and abs(np.linalg.norm(found) - 1.0) > 1e-5:
                    raise Wrong(f"after {name}, {output} of text {row} ({way}) is no unit vector")
                worst = max(worst, read.distance)
    return worst
