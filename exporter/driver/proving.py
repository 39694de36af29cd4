"""The end of every export: a built artifact is measured, judged and moved to its place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import Bundle, Manifest, Origin
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.diagnose import layer_drift, locating
from goldfold.exporter.diagnose.failure import Made, Suspect
from goldfold.exporter.diagnose.pass_drift import Drift
from goldfold.exporter.driver.request import Request
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.vocabulary import Cut
from goldfold.exporter.ir.program import Program, weights_aside
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.records import KindRange, LayerLook, Look
from goldfold.exporter.verification import exact
from goldfold.exporter.verification.measure import Emulation, emulated, measure_all, record
from goldfold.exporter.verification.sourced import Given
from goldfold.golden.compare import Measurement
from goldfold.golden.gate import Verdict
from goldfold.golden.store import Goldens
from goldfold.golden.witness import Witness

if TYPE_CHECKING:
    from goldfold.exporter.verification.judging import Judges
    from goldfold.exporter.verification.unseen import Texts
    from goldfold.targets.base import Begun


_NO_EMBEDDING = ("retrieval", "constants", "contract", "tokenizer", "companion", "unseen")
"""Kinds of reasons that no golden embedding shows."""


class Proofs:
    """The emulator's figures, computed once for all targets that were given the same graph."""

    def __init__(self, goldens: Goldens, stages: Stages) -> None:
        self._goldens, self._stages = goldens, stages
        self._known: dict[tuple[str, str], tuple[Measurement, Verdict]] = {}

    def __call__(self, program: Program, manifest: Manifest) -> Emulation:
        """Returns the figures of a program whose rounded run is the proof of an artifact with this
        manifest."""
        key = (manifest.floating, _digest(program))
        if key not in self._known:
            found = emulated(program, manifest.gate, self._goldens, self._stages)
            self._known[key] = (found.measurement, found.verdict)  # and no program
        return Emulation(program, *self._known[key])


@dataclass(frozen=True)
class Session:
    """The state that all artifacts of one export share."""

    request: Request
    source: Source
    origin: Origin
    goldens: Goldens
    """The goldens by which artifacts are judged."""
    outside: Goldens | None
    """Those of texts that a cut vocabulary gives other tokens: reported."""
    cut: Cut | None
    """The cut of the vocabulary, if it is cut."""
    witness: Witness
    """The source's own tokenizer and settings."""
    stages: Stages
    scratch: Path
    drift: Drift | None
    """The callback that measures the drift after every pass, where the export was asked for it."""
    judges: Judges | None
    """The judges of quantized artifacts; None if the export does not judge."""
    unseen: Texts | None
    """The unseen texts; None if the export measures none."""
    begun: Mapping[str, Begun | None]
    """The jobs that run beside the export, by target."""
    shared: int = 0
    """The user's own calibration texts that were left out, being goldens."""


@dataclass(frozen=True)
class Group:
    """The state that the artifacts of one program share."""

    session: Session
    recipe: Recipe | None
    peaks: Mapping[str, float]
    bounds: Mapping[str, float]
    """Bounds on values that hold for every text, where half precision asks for them."""
    looks: tuple[Look, ...]
    """The drift after the passes that they share."""
    proofs: Proofs
    learned: bool = False
    """Whether its integers depend on calibration texts."""

    def gate(self, precision: str) -> str:
        """Returns the precision whose gate applies to an artifact."""
        return precision if self.recipe is None else self.recipe.gate


@dataclass(frozen=True)
class Built:
    """An artifact that is whole but for its verdict."""

    bundle: Bundle
    goldens: Goldens
    final: list[Program]
    """The program that the target was given; taken out where it is used, for it fills memory."""
    emulable: Program | None
    made: Made | None
    """The build of the artifact, if a fault is to be located."""
    first_timing: int
    first_look: int
    ranges: tuple[KindRange, ...]


def prove(group: Group, built: Built) -> Result:
    """Measure an artifact, judge it, and move it to its place."""
    session, manifest, goldens = group.session, built.bundle.manifest, built.goldens
    stages = session.stages
    final = built.final.pop()
    suspects = final.suspects
    further = exact.reasons(built.bundle.path, manifest, final, goldens, stages)
    del final
    encoder = open_encoder(built.bundle, proof=True)
    emulation = None if built.emulable is None else group.proofs(built.emulable, manifest)
    found = measure_all(
        encoder,
        goldens,
        stages,
        emulation=emulation,
        judges=session.judges,
        given=Given(session.witness, session.source.loads, True, session.unseen),
    )
    found = replace(found, verdict=found.verdict.also(*further))
    location = None
    # A search needs an embedding that is wrong: 1−cos must have missed its gate.
    missed = [one for one in found.verdict.reasons if one.kind not in _NO_EMBEDDING]
    if found.faults:
        location = locating.by_constant(found.faults, suspects)
    elif missed and built.made is not None:
        proof = None if emulation is None else emulation.measurement
        suspect = Suspect(built.made, goldens.pooled(), found.measurement, proof)
        location = locating.locate(suspect, stages)
    looks: tuple[Look, ...] = ()
    inside: tuple[LayerLook, ...] = ()
    if session.drift is not None:  # the common passes' and this artifact's own
        looks = (*group.looks, *session.drift.looks[built.first_look :])
        inside = () if built.made is None else layer_drift.by_layer(built.made, goldens, stages)
    timings = stages.timings[built.first_timing :]
    verdict = record(built.bundle, found, timings).with_(
        drift=looks, layers=inside, ranges=built.ranges, location=location
    )
    session.source.check_unchanged()  # the manifest names digests from before all this
    bundle.write_verdict(built.bundle.path, verdict)
    out = session.request.out
    path = bundle.publish(built.bundle.path, out, built.bundle.name, verdict.passed)
    seconds = sum(timing.seconds for timing in timings)
    whole = Bundle(path, manifest, verdict)
    return Result(path, whole, found.measurement, found.verdict, seconds)


def _digest(program: Program) -> str:
    """Returns a digest that tells apart two graphs of one export; their weights follow from
    them."""
    with weights_aside(program.model):
        return hashlib.sha256(ir.to_proto(program.model).SerializeToString()).hexdigest()
