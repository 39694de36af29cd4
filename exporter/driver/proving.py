"""An artifact that is built is measured, judged and put in its place: the end of every export."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import Bundle, Origin
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.artifact.result import Result, measured
from goldfold.exporter.diagnose import layer_drift, locating
from goldfold.exporter.diagnose.failure import Made, Suspect
from goldfold.exporter.diagnose.pass_drift import Drift
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program, weights_aside
from goldfold.exporter.options import BuildOptions
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.records import KindRange, LayerLook, Look
from goldfold.exporter.verification import losses, verifying
from goldfold.golden.compare import Measurement
from goldfold.golden.store import Goldens

if TYPE_CHECKING:
    from goldfold.exporter.verification.judging import Judges
    from goldfold.targets.base import Begun


@dataclass(frozen=True)
class Job:
    """What all artifacts of one export share."""

    source: Source
    origin: Origin
    goldens: Goldens
    asked: BuildOptions
    """What the user asked of the targets."""
    peaks: dict[str, float]
    scratch: Path
    out: Path
    drift: Drift | None
    looks: list[Look]
    """The drift after the passes that they share."""
    proofs: dict[tuple[str, str], Measurement]
    """The emulator's figures by precision and graph."""
    begun: Mapping[str, Begun | None]
    """What goes on beside the export, by target."""
    recipe: Recipe | None
    trusts: bool | None
    """Whether the model's code may run while a fault is located; None if none is to be."""
    judges: Judges | None
    """Who judges what is quantized; None if nobody was asked to."""

    def gate(self, precision: str) -> str:
        """The precision whose gate an artifact is held to."""
        return precision if self.recipe is None else self.recipe.gate


@dataclass(frozen=True)
class Built:
    """An artifact that is whole but for its verdict."""

    bundle: Bundle
    goldens: Goldens
    emulable: Program | None
    made: Made | None
    """How it came to be, if a fault is to be located."""
    first_timing: int
    first_look: int
    ranges: tuple[KindRange, ...]


def prove(job: Job, built: Built, stages: Stages) -> Result:
    """Measure an artifact, judge it, and move it to its place."""
    manifest, goldens, emulable = built.bundle.manifest, built.goldens, built.emulable
    gate = job.gate(manifest.precision)
    encoder = open_encoder(built.bundle, proof=True)
    measurement, verdict = verifying.measure(encoder, goldens, stages)
    further = verifying.heads(encoder, goldens, stages, emulable)
    verdict = verifying.with_heads(verdict, further, gate, goldens)
    others = verifying.beside(built.bundle, goldens, stages)
    proof = None
    if emulable is not None:
        key = (manifest.floating, _digest(emulable))
        if key not in job.proofs:  # once for targets that were given the same graph
            job.proofs[key] = verifying.emulated(emulable, gate, job.goldens, stages)
        proof = job.proofs[key]
        verdict = verifying.both(verdict, proof, gate, job.goldens)
    location = None
    if not verdict.passed and built.made is not None:
        location = locating.locate(Suspect(built.made, goldens, measurement, proof), stages)
    looks: list[Look] = []
    inside: tuple[LayerLook, ...] = ()
    if job.drift is not None:  # the common passes' and this artifact's own
        looks = job.looks + job.drift.looks[built.first_look :]
        inside = () if built.made is None else layer_drift.by_layer(built.made, goldens, stages)
    # Where a loss in retrieval comes from, no golden text shows: located is what 1−cos misses.
    lost = losses.of(encoder, goldens, measurement, stages, job.judges)
    verdict = losses.hold(verdict, lost, gate)
    timings = stages.timings[built.first_timing :]
    record = verifying.record(
        verdict,
        measurement,
        manifest,
        timings,
        others,
        proof,
        looks,
        measured(built.bundle),
        further,
        location,
    ).model_copy(update={"layers": inside, "ranges": built.ranges, "losses": lost})
    job.source.check_unchanged()  # the manifest names digests from before all this
    bundle.write_verdict(built.bundle.path, record)
    path = bundle.publish(built.bundle.path, job.out, built.bundle.name, verdict.passed)
    seconds = sum(timing.seconds for timing in timings)
    return Result(path, Bundle(path, manifest, record), measurement, verdict, seconds)


def _digest(program: Program) -> str:
    """What tells apart two graphs of one export; their weights follow from them."""
    with weights_aside(program.model):
        return hashlib.sha256(ir.to_proto(program.model).SerializeToString()).hexdigest()
