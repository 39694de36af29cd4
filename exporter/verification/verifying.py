"""Measure an artifact against its goldens, and say whether it passes."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import Bundle, Manifest, VerdictRecord
from goldfold.exporter.artifact.encoder import Encoder, open_encoder
from goldfold.exporter.artifact.result import measured
from goldfold.exporter.diagnose.pass_drift import SHORT
from goldfold.exporter.errors import OutputError
from goldfold.exporter.evaluate import emulate as emulation
from goldfold.exporter.ir.program import Program
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.records import Location, Look, Timing
from goldfold.exporter.verification import losses
from goldfold.exporter.verification.goldens import goldens_of, ours
from goldfold.golden import compare, gate
from goldfold.golden.compare import Measurement
from goldfold.golden.gate import Verdict
from goldfold.golden.judging.pairs import LEAST
from goldfold.golden.store import Goldens

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result
    from goldfold.exporter.verification.judging import Judges

EMULATED = "Emulated:"
"""How a reason starts that the emulator gave."""

HEAD_EMULATED = " emulated"
"""How a head's name ends where the emulator ran it."""


@ours()
def verify(
    folder: str | Path,
    *,
    threads: int | None = None,
    judge: bool | Judges = False,
    model: str | None = None,
    pairs: int = LEAST,
    trust_remote_code: bool = False,
    listener: Listener | None = None,
) -> Result:
    """Check every digest of an artifact folder, run its goldens again, and renew its verdict.json.

    `judge` judges a quantized artifact on the Lee corpus and the retrieval of so many `pairs`, and
    holds it to its limit (goldfold.exporter.verification.losses); several verifications may share
    what goldfold.exporter.verification.judging.convene returns. It needs the source `model` until
    its fp32 embeddings are kept. Without it, what was judged before stays in the verdict.

    Works on artifacts that missed their gate as well, and where nothing can be written: then
    `.unrecorded` says why. A missed gate does not raise: look at `.passed`. Raises ArtifactError,
    naming the file, for a damaged folder; UsageError for a model that is not the artifact's;
    ModelError where one is needed to judge and none is given.
    """
    from goldfold.exporter.artifact.result import Result
    from goldfold.exporter.verification.judging import check_pairs, convene, fp32_of

    path = Path(folder)
    if judge is True:
        check_pairs(pairs)
    stages = Stages(listener)
    with stages("open"):
        opened, goldens, encoder = bundle.steadily(path, lambda: _open(path, threads))
        stages.note(f"{len(opened.manifest.files)} files, every digest right")
    judges = None if isinstance(judge, bool) else judge
    if judge is True and opened.manifest.recipe is not None:
        judges = convene(stages, fp32_of(model, stages, trust_remote_code), count=pairs)
    measurement, verdict = measure(encoder, goldens, stages)
    further = heads(encoder, goldens, stages)
    verdict = with_heads(verdict, further, opened.manifest.gate, goldens)
    others = beside(opened, goldens, stages, threads)
    lost = losses.of(encoder, goldens, measurement, stages, judges)
    verdict = losses.hold(verdict, lost, opened.manifest.gate)
    fresh = record(
        verdict,
        measurement,
        opened.manifest,
        stages.timings,
        others,
        where=measured(opened),
        heads=further,
    ).model_copy(update={"losses": lost})
    verdict, fresh = _carry(opened, verdict, fresh)
    unrecorded = _record(path, fresh)
    seconds = sum(timing.seconds for timing in stages.timings)
    found = Bundle(path, opened.manifest, fresh)
    return Result(path, found, measurement, verdict, seconds, unrecorded)


def _open(path: Path, threads: int | None) -> tuple[Bundle, Goldens, Encoder]:
    """An artifact, its goldens and its runtime, all of them as they were checked."""
    opened = bundle.open_bundle(path, unverified=True)
    goldens = goldens_of(opened)
    return opened, goldens, open_encoder(opened, threads, proof=True)


def _record(path: Path, fresh: VerdictRecord) -> str:
    """Write a verdict where that can be; else the reason why not."""
    try:
        bundle.write_verdict(path, fresh)
    except OutputError as error:
        return str(error)
    return ""


def _carry(opened: Bundle, verdict: Verdict, fresh: VerdictRecord) -> tuple[Verdict, VerdictRecord]:
    """Keep what only an export can measure: the emulation of half precision, and the drift."""
    old = opened.verdict
    if old is None or old.emulated is None:
        if _executes(opened.manifest):
            kept = {} if old is None else _kept(old, verdict)
            return verdict, fresh.model_copy(update=kept)
        # What the runtime computes in f32 here proves the weights, not the precision.
        unproved = f"{EMULATED} nothing proves {opened.manifest.floating} here; export it again."
        verdict = Verdict(False, (*verdict.reasons, unproved))
        return verdict, fresh.model_copy(update={"passed": False, "reasons": verdict.reasons})
    emulated = tuple(
        reason
        for reason in old.reasons
        if reason.startswith(EMULATED) or reason.partition(":")[0].endswith(HEAD_EMULATED)
    )
    rounded = {name: one for name, one in old.heads.items() if name.endswith(HEAD_EMULATED)}
    verdict = Verdict(verdict.passed and not emulated, (*verdict.reasons, *emulated))
    kept = {
        "emulated": old.emulated,
        "heads": {**fresh.heads, **rounded},
        **_kept(old, verdict),
    }
    update = {"passed": verdict.passed, "reasons": verdict.reasons, **kept}
    return verdict, fresh.model_copy(update=update)


def _kept(old: VerdictRecord, verdict: Verdict) -> dict[str, Any]:
    """What no verification measures: drift, ranges, speed, and where a failed one goes wrong."""
    kept = {name: getattr(old, name) for name in ("drift", "layers", "ranges", "speed")}
    return {**kept, "location": None if verdict.passed else old.location}


def measure(encoder: Encoder, goldens: Goldens, stages: Stages) -> tuple[Measurement, Verdict]:
    """Tokens, every text alone, and all in padded batches; then the gate of the precision."""
    manifest = encoder.bundle.manifest
    with stages(f"verify {encoder.bundle.name}"):
        faults = compare.token_faults(encoder.called, goldens)
        measurement = compare.measure(
            encoder.run,
            goldens,
            pad_id=encoder.contract.pad_id,
            progress=lambda what, done, total: stages.step(done, total),
            dims=encoder.contract.dim,
        )
        verdict = gate.judge(measurement, faults, manifest.gate, goldens)
        worst = max(measurement.worst, measurement.worst_padded)
        computed = "" if _executes(manifest) else ", computed in fp32 on this machine"
        what, reason = measured(encoder.bundle)
        if reason:
            computed += f" ({what}; the artifact itself was not run: {reason})"
        stages.note(f"worst 1−cos {worst:.1e}, {'PASS' if verdict.passed else 'FAIL'}{computed}")
    return measurement, verdict


def heads(
    encoder: Encoder, goldens: Goldens, stages: Stages, emulable: Program | None = None
) -> dict[str, Measurement]:
    """Every further head, by output; and with every value rounded where that is the proof. They
    share the trunk, so the short texts, which cost little, are enough."""
    contract, short = encoder.contract, goldens.within(SHORT)
    found: dict[str, Measurement] = {}
    if not contract.heads:
        return found
    ways: dict[str, Callable] = {"": encoder.call}
    with stages(f"heads {encoder.bundle.name}"):
        if emulable is not None:
            ways[HEAD_EMULATED] = emulation.runner(emulable)
        for dim in contract.heads:
            name = contract.output_of(dim)
            for way, run in ways.items():
                stages.detail(f"{name}{way}")
                found[f"{name}{way}"] = compare.measure(
                    lambda ids, mask, run=run, name=name: run(ids, mask, name),
                    short,
                    pad_id=contract.pad_id,
                    progress=lambda what, done, total: stages.step(done, total),
                    dims=dim,
                )
        worst = max(max(m.worst, m.worst_padded) for m in found.values())
        stages.note(f"{len(contract.heads)} more, worst 1−cos {worst:.1e}")
    return found


def with_heads(
    verdict: Verdict, found: Mapping[str, Measurement], precision: str, goldens: Goldens
) -> Verdict:
    """The same gate on every further head."""
    short, reasons = goldens.within(SHORT), list(verdict.reasons)
    for name, measurement in found.items():
        judged = gate.judge(measurement, [], precision, short)
        reasons += [f"{name}: {reason}" for reason in judged.reasons]
    return Verdict(not reasons, tuple(reasons))


def beside(
    opened: Bundle, goldens: Goldens, stages: Stages, threads: int | None = None
) -> dict[str, Measurement]:
    """The goldens in what else can run the artifact's file (targets/base.py): for the record."""
    manifest = opened.manifest
    target = registry.target(manifest.target)
    runs = target.beside(opened.path, manifest.contract, manifest.floating, threads)
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
            stages.note(f"{name}: worst 1−cos {worst:.1e}, for the record")
    return found


def _executes(manifest: Manifest) -> bool:
    return registry.target(manifest.target).executes(manifest.floating)


def emulated(program: Program, precision: str, goldens: Goldens, stages: Stages) -> Measurement:
    """The goldens through the program with every value rounded to its type."""
    with stages(f"emulate {precision}"):
        measurement = compare.measure(
            emulation.runner(program),
            goldens,
            dims=program.contract.dim,
            pad_id=program.contract.pad_id,
            progress=lambda what, done, total: stages.step(done, total),
        )
        passed = gate.judge(measurement, [], precision, goldens).passed
        worst = max(measurement.worst, measurement.worst_padded)
        stages.note(f"worst 1−cos {worst:.1e}, {'PASS' if passed else 'FAIL'}")
    return measurement


def both(verdict: Verdict, measurement: Measurement, precision: str, goldens: Goldens) -> Verdict:
    """The gate once more, on the emulator's figures: both must pass."""
    own = gate.judge(measurement, [], precision, goldens)
    reasons = (*verdict.reasons, *(f"{EMULATED} {reason}" for reason in own.reasons))
    return Verdict(passed=not reasons, reasons=reasons)


def record(
    verdict: Verdict,
    measurement: Measurement,
    manifest: Manifest,
    timings: Sequence[Timing],
    beside: Mapping[str, Measurement] | None = None,
    emulated: Measurement | None = None,
    drift: Sequence[Look] = (),
    where: tuple[str, str] = ("the artifact", ""),
    heads: Mapping[str, Measurement] | None = None,
    location: Location | None = None,
) -> VerdictRecord:
    """What goes into verdict.json: everything that differs from run to run."""
    measured, not_run = where
    return VerdictRecord(
        manifest=manifest.digest,
        passed=verdict.passed,
        reasons=verdict.reasons,
        precision=manifest.precision,
        measurement=measurement.to_json(),
        emulated=None if emulated is None else emulated.to_json(),
        beside=_summaries(beside),
        heads=_summaries(heads),
        drift=tuple(drift),
        location=location,
        timings=tuple(timings),
        passes_seconds={report.name: report.seconds for report in manifest.passes},
        machine={
            "system": platform.system(),
            "machine": platform.machine(),
            "computes_in": manifest.floating if _executes(manifest) else "fp32",
            "measured": measured,
            "not_run": not_run,
        },
    )


def _summaries(found: Mapping[str, Measurement] | None) -> dict[str, dict]:
    """Measurements without their rows."""
    return {name: compare.summary(one) for name, one in (found or {}).items()}
