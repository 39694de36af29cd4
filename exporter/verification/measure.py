"""The measurement of an artifact against its goldens, and its gate: an export and a verification
share it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from goldfold.exporter import records, registry
from goldfold.exporter.artifact import canaries
from goldfold.exporter.artifact.bundle import Bundle, Manifest, VerdictRecord
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.artifact.late_encoder import LateEncoder
from goldfold.exporter.artifact.result import measured, standing
from goldfold.exporter.progress import Stages
from goldfold.exporter.proofs import Canaries, Constants, Outside, UnseenFigures
from goldfold.exporter.records import Figures, Losses, Timing
from goldfold.exporter.verification import constants, losses, outside, sourced, unseen, ways
from goldfold.exporter.verification.sourced import Given
from goldfold.golden import compare, gate, withheld
from goldfold.golden.compare import Measurement
from goldfold.golden.gate import Verdict
from goldfold.golden.measured import unmeasured
from goldfold.golden.proof.records import Fault
from goldfold.golden.store import SHORT, Goldens
from goldfold.golden.tasks import QUANTITY

if TYPE_CHECKING:
    from goldfold.exporter.ir.program import Program
    from goldfold.exporter.verification.judging import Judges


@dataclass(frozen=True)
class Emulation:
    """The rounded run of a program, which is the proof where this machine computes in another
    precision."""

    program: Program
    measurement: Measurement
    """The measurement of all goldens, with every value rounded to its type."""
    verdict: Verdict


@dataclass(frozen=True)
class Measured:
    """The contents of a verdict."""

    measurement: Measurement
    verdict: Verdict
    emulation: Emulation | None = None
    heads: Mapping[str, Measurement] = field(default_factory=dict)
    """Measurements of the further heads, by output, on the short texts."""
    emulated_heads: Mapping[str, Measurement] = field(default_factory=dict)
    beside: Mapping[str, Measurement] = field(default_factory=dict)
    """Measurements of other runtimes on the same file, for the record."""
    losses: Losses | None = None
    unseen: UnseenFigures | None = None
    constants: Constants | None = None
    outside: Outside | None = None
    faults: tuple[Fault, ...] = ()
    """Constants that do not follow from the source."""
    canaries: Canaries | None = None
    otherwise: str = ""
    """The sentence on canaries that are not those of the artifact's verdict; "" where they are."""


def measure_all(
    encoder: Encoder,
    goldens: Goldens,
    stages: Stages,
    *,
    emulation: Emulation | None = None,
    judges: Judges | None = None,
    threads: int | None = None,
    given: Given | None = None,
) -> Measured:
    """Measure an open artifact in every way that its verdict needs, and apply its gate.

    `emulation` is the proof where the runtime computes in another precision here; `judges` measure
    the losses of quantization; `given` is the source, where it is at hand, and the unseen texts.
    """
    opened = encoder.bundle
    precision = opened.manifest.gate
    goldens = sourced.readable(opened, goldens)
    proof = constants.prove(opened, None if given is None else given.folder, stages)
    with sourced.contract_first(opened):
        measurement, verdict = measure(encoder, goldens, stages, emulated=emulation is not None)
        verdict = verdict.also(*ways.reasons(encoder, goldens, stages))
    # A private text is repeated nowhere.
    verdict = verdict.also(*sourced.reasons(encoder, goldens.public(), stages, given))
    further, rounded = _heads(encoder, goldens, stages, emulation)
    short = goldens.within(SHORT)
    for heads, is_emulated in ((further, False), (rounded, True)):
        for name, one in heads.items():
            reasons = gate.judge(one, [], precision, short).reasons
            verdict = verdict.also(*reasons, head=name, emulated=is_emulated)
    others = _beside(opened, goldens, stages, threads)
    if emulation is not None:
        verdict = verdict.also(*emulation.verdict.reasons, emulated=True)
    verdict = verdict.also(*proof.reasons)
    lost = losses.of(encoder, goldens, measurement, stages, judges)
    verdict = losses.hold(verdict, lost, precision)
    drawn = unseen.of(encoder, stages, None if given is None else given.unseen)
    verdict = unseen.hold(verdict, drawn, precision)
    return Measured(
        measurement,
        verdict,
        emulation,
        further,
        rounded,
        others,
        lost,
        drawn,
        proof.record,
        outside.of(encoder, stages),
        proof.faults,
        canaries.of(opened, goldens.public(), measurement),
        canaries.told(opened, goldens.public(), measurement),
    )


def measure(
    encoder: Encoder, goldens: Goldens, stages: Stages, *, emulated: bool = False
) -> tuple[Measurement, Verdict]:
    """Measure tokens, every text alone, and all in padded batches; then apply the gate of the
    precision. The verdict says what stood in for the artifact (`standing`)."""
    manifest = encoder.bundle.manifest
    with stages(f"verify {encoder.bundle.name}"):
        faults = withheld.told(compare.token_faults(encoder.called, goldens), goldens)
        measurement = compare.measure(
            encoder.call,
            goldens,
            pad_id=encoder.contract.pad_id,
            progress=lambda what, done, total: stages.step(done, total),
            dims=encoder.contract.dim,
        )
        verdict = gate.judge(measurement, faults, manifest.gate, goldens)
        if isinstance(encoder, LateEncoder):
            verdict = verdict.also(*gate.counts(encoder.counted, goldens))
        verdict = standing(encoder.bundle, verdict, emulated)
        worst = max(measurement.worst, measurement.worst_padded)
        beside = f" ({verdict.stand_in}; {verdict.not_run})" if verdict.stand_in else ""
        worst = f"worst {QUANTITY[goldens.task]} {worst:.1e}"
        stages.note(f"{worst}, {verdict.word}{beside}{_up_to(encoder, goldens)}")
    return measurement, verdict


def _up_to(encoder: Encoder, goldens: Goldens) -> str:
    most = encoder.contract.max_length
    short = unmeasured(goldens.longest, most)
    return f" up to {goldens.longest:,} of {most:,} tokens" if short else ""


def _heads(
    encoder: Encoder, goldens: Goldens, stages: Stages, emulation: Emulation | None
) -> tuple[dict[str, Measurement], dict[str, Measurement]]:
    """Measure every further head, by output; and with every value rounded where that is the proof.
    The heads share the trunk, so the short texts, which cost little, are enough."""
    contract, short = encoder.contract, goldens.within(SHORT)
    found: tuple[dict[str, Measurement], dict[str, Measurement]] = ({}, {})
    if not contract.heads:
        return found
    runs: list[Callable] = [encoder.call]
    with stages(f"heads {encoder.bundle.name}"):
        if emulation is not None:
            from goldfold.exporter.evaluate import emulate

            runs.append(emulate.runner(emulation.program))
        for dim in contract.heads:
            name = contract.output_of(dim)
            for run, into in zip(runs, found, strict=False):
                stages.detail(f"{name}{' emulated' if into is found[1] else ''}")
                into[name] = compare.measure(
                    lambda ids, mask, run=run, name=name: run(ids, mask, name),
                    short,
                    pad_id=contract.pad_id,
                    progress=lambda what, done, total: stages.step(done, total),
                    dims=dim,
                )
        worst = max(max(m.worst, m.worst_padded) for into in found for m in into.values())
        stages.note(f"{len(contract.heads)} more, worst 1−cos {worst:.1e}")
    return found


def _beside(
    opened: Bundle, goldens: Goldens, stages: Stages, threads: int | None = None
) -> dict[str, Measurement]:
    """Run the goldens in the other runtimes that take the artifact's file (targets/base.py): for
    the record."""
    manifest = opened.manifest
    target = registry.target(manifest.target)
    runs = target.cross_checks(opened.path, manifest.contract, manifest.floating, threads)
    found = {}
    for name, run in runs.items():
        with stages(f"beside {opened.name}"):
            found[name] = compare.measure(
                run,
                goldens,
                dims=manifest.contract.dim,
                pad_id=manifest.contract.pad_id,
                progress=lambda what, done, total: stages.step(done, total),
            )
            worst = max(found[name].worst, found[name].worst_padded)
            stages.note(f"{name}: worst {QUANTITY[goldens.task]} {worst:.1e}, for the record")
    return found


def executes(manifest: Manifest) -> bool:
    """Returns whether this machine really computes the measured artifact in its precision."""
    return registry.target(manifest.target).executes(manifest.floating)


def emulated(program: Program, precision: str, goldens: Goldens, stages: Stages) -> Emulation:
    """Run the goldens through a program with every value rounded to its type, and apply the gate of
    `precision`."""
    from goldfold.exporter.evaluate import emulate

    with stages(f"emulate {precision}"):
        measurement = compare.measure(
            emulate.runner(program),
            goldens,
            dims=program.contract.dim,
            pad_id=program.contract.pad_id,
            progress=lambda what, done, total: stages.step(done, total),
        )
        verdict = gate.judge(measurement, [], precision, goldens)
        worst = max(measurement.worst, measurement.worst_padded)
        held = "within" if verdict.passed else "outside"
        stages.note(f"worst {QUANTITY[goldens.task]} {worst:.1e}, {held} the gate")
    return Emulation(program, measurement, verdict)


def record(opened: Bundle, found: Measured, timings: Sequence[Timing]) -> VerdictRecord:
    """Returns the record for verdict.json: everything that differs from run to run."""
    manifest, emulation = opened.manifest, found.emulation
    what, _ = measured(opened)
    return VerdictRecord(
        manifest=manifest.digest,
        status=found.verdict.status,
        stand_in=found.verdict.stand_in,
        not_run=found.verdict.not_run,
        reasons=found.verdict.reasons,
        precision=manifest.precision,
        measurement=_every_text(found.measurement),
        emulated=None if emulation is None else _every_text(emulation.measurement),
        beside=_figures(found.beside),
        heads=_figures(found.heads),
        emulated_heads=_figures(found.emulated_heads),
        constants=found.constants,
        losses=found.losses,
        unseen=found.unseen,
        outside=found.outside,
        canaries=found.canaries,
        timings=tuple(timings),
        passes_seconds={report.name: report.seconds for report in manifest.passes},
        machine={
            "system": platform.system(),
            "machine": platform.machine(),
            "computes_in": manifest.floating if executes(manifest) else "fp32",
            "measured": what,
        },
    )


def _every_text(measurement: Measurement) -> records.Measured:
    return records.read(records.Measured, measurement.plain())


def _figures(found: Mapping[str, Measurement]) -> dict[str, Figures]:
    """Returns the measurements without their rows."""
    return {name: records.read(Figures, compare.summary(one)) for name, one in found.items()}
