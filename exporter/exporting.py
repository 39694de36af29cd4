"""Model in, verified artifacts out: the order of everything, in one function."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from exporter import (
    __version__,
    asking,
    bundle,
    calibration,
    heads,
    locating,
    pipeline,
    ranges,
    registry,
    reporting,
    verifying,
)
from exporter.bundle import Bundle, Manifest, Origin
from exporter.encoder import TOKENIZER, open_encoder
from exporter.errors import UsageError
from exporter.model import Source, check_finite, open_model
from exporter.options import NOTHING_ASKED, BuildOptions, check_taken
from exporter.passes.set_precision import SetPrecision
from exporter.pipeline import Options, Pipeline
from exporter.probing import Drift, Look
from exporter.program import Program, Reference, weights_aside
from exporter.stages import Listener, Stages
from exporter.suspect import Made, Suspect
from exporter.weights import read_object
from golden import store
from golden.compare import Measurement
from golden.gate import Verdict
from golden.store import Goldens

if TYPE_CHECKING:
    from targets.base import Target

_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Result:
    """One artifact of an export or a verification."""

    path: Path
    """Where it is; ends in `.failed` if it missed its gate."""
    bundle: Bundle
    measurement: Measurement
    verdict: Verdict
    seconds: float
    """What building and verifying took."""

    @property
    def passed(self) -> bool:
        return self.verdict.passed


def export(
    model: str | Path,
    targets: Sequence[str] = ("openvino",),
    precisions: Sequence[str] = ("fp32",),
    out: str | Path = "out",
    *,
    name: str | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    options: Options = Options(),  # noqa: B008 — frozen
    verify_each: bool = False,
    max_length: int | None = None,
    dims: Sequence[int] = (),
    build: BuildOptions = NOTHING_ASKED,
    locate: bool = True,
    listener: Listener | None = None,
) -> list[Result]:
    """Export `model` for every pair of target and precision, and verify each artifact.

    Args:
        model: a SentenceTransformer folder, or a hub id.
        targets: names of targets; `precisions`: names of precisions. Every pair is built.
        out: where artifact folders go, as `out/<target>-<precision>`.
        name: what to call the model; its folder's name if not given.
        force: write into a folder that holds other things; only artifacts are ever replaced.
        trust_remote_code: run code and unpickle weights that come with the model.
        options: passes to skip, where to stop, where to dump (exporter.pipeline.Options).
        verify_each: measure the drift after every pass, and record it in verdict.json.
        max_length: the most tokens a text may have; the model's own number if not given.
        dims: sizes of the embedding (Matryoshka); the largest is `sentence_embedding`, the others
            are further outputs. The model's own if not given.
        build: what is asked of the targets beyond precisions (exporter.options.BuildOptions).
        locate: find out where an artifact that misses its gate goes wrong (exporter.locating).
        listener: is told what happens (exporter.stages.Listener).

    Returns:
        One Result an artifact, in order. Look at `.passed`: a missed gate does not raise.

    Raises:
        GoldfoldError of the kind that says whose fault it is, before anything is written.
    """
    pairs = asking.pairs(targets, precisions)
    asking.check_sizes(dims, max_length)
    check_taken(build, {name: registry.target(name).takes for name in targets})
    pipeline.check_skips(options.skip)
    cut = options.stop_after is not None or "set-precision" in options.skip
    if cut and any(precision != "fp32" for precision in precisions):
        raise UsageError(
            "--stop-after and --skip set-precision would leave half precision half done"
        )
    out = Path(out)
    stages = Stages(listener)
    with stages("open"):
        source = open_model(model, name=name, trust_remote_code=trust_remote_code)
        names = [f"{target}-{precision}" for target, precision in pairs]
        bundle.check_output(out, names, force)
        if options.dump is not None:
            if options.dump.resolve().is_relative_to(out.resolve()):
                raise UsageError(f"--dump {options.dump} lies in --out; give it a place of its own")
            bundle.check_writable(options.dump, "--dump")
        asking.settle(pairs, build, asking.ANY_LENGTH)  # refuses what no length could make right
        check_finite(source, stages.step)
        origin = origin_of(source)
        stages.note(f"{source.name}, {len(source.modules)} modules, weights finite")
    with stages("goldens"):
        goldens = obtain_goldens(source, origin, stages, trust_remote_code)
        goldens = asking.shortened(goldens, max_length)
        heads.check(dims, goldens.dim)
        settled = asking.settle(pairs, build, max_length or goldens.max_length)
    drift = Drift(goldens, stages) if verify_each else None
    passes = Pipeline(options, drift)
    program = prepare(source, stages, passes, trust_remote_code, max_length, dims)
    common_looks = len(drift.looks) if drift is not None else 0
    peaks: dict[str, float] = {}
    if any(pipeline.asks_ranges(p, registry.target(t).typed) for t, p in pairs):
        with stages("ranges"):
            peaks = record_ranges(program, stages)
    results = []
    with bundle.scratch(out) as scratch:
        trust = trust_remote_code if locate else None
        job = Job(source, origin, goldens, peaks, scratch, out, drift, common_looks, {}, trust)
        for index, (target, precision) in enumerate(pairs):
            # The last target may use the program up; the others get a copy that shares the weights.
            last = index == len(pairs) - 1
            own = program if last else replace(program, model=program.model.clone())
            results.append(
                _one(
                    job,
                    own,
                    passes.fork(f"{target}-{precision}"),
                    target,
                    precision,
                    settled[target, precision],
                    stages,
                )
            )
    reporting.after_export(out, stages)
    return results


def origin_of(source: Source) -> Origin:
    """What the manifest says of where the model came from."""
    defining = {k: v for k, v in source.digests.items() if store.defines(k)}
    return Origin(
        name=source.name,
        fingerprint=store.fingerprint(defining),
        digests=source.digests,
        licence=source.licence,
    )


def obtain_goldens(
    source: Source, origin: Origin, stages: Stages, trust_remote_code: bool
) -> Goldens:
    """The stored goldens of exactly this model, or new ones made now by sentence-transformers."""
    folder = store.find(origin.fingerprint)
    if folder is not None:
        goldens = store.load(folder)
        stages.note(f"{len(goldens.cases)} stored texts")
        return goldens
    from golden.make import make

    stages.detail("none stored for this model: sentence-transformers makes them")
    goldens = make(
        source.path,
        name=source.name,
        digests={k: v for k, v in source.digests.items() if store.defines(k)},
        trust_remote_code=trust_remote_code,
        progress=lambda text, done, total: stages.step(done, total),
    )
    stages.note(f"{len(goldens.cases)} texts, made now with sentence-transformers")
    return goldens


def prepare(
    source: Source,
    stages: Stages,
    passes: Pipeline,
    trust_remote_code: bool = False,
    max_length: int | None = None,
    dims: Sequence[int] = (),
) -> Program:
    """Trace, simplify and rewrite: the program that every target starts from, for texts of at most
    `max_length` tokens and with the heads `dims`."""
    program = traced(source, stages, trust_remote_code)
    if max_length is not None:
        program.contract = program.contract.model_copy(update={"max_length": max_length})
    if dims:
        heads.add(program, dims)
    with stages("rewrite"):
        reports = passes.run(program, (*pipeline.EARLY, *pipeline.common(program.contract)))
        stages.note(
            ", ".join(f"{r.name} ×{r.applied}" for r in reports if r.applied)
            + f"; {program.parameters() / 1e6:.1f} M parameters"
        )
    return program


def traced(source: Source, stages: Stages, trust_remote_code: bool = False) -> Program:
    """Trace and simplify: the program before any pass."""
    with stages("trace"):
        from exporter.trace import trace

        program = trace(source, trust_remote_code=trust_remote_code, progress=stages.detail)
        stages.note(f"{len(program.graph)} nodes, {program.parameters() / 1e6:.1f} M parameters")
    with stages("simplify"):
        from exporter.simplify import simplify

        simplify(program)
        stages.note(f"{len(program.graph)} nodes")
    return program


def record_ranges(program: Program, stages: Stages) -> dict[str, float]:
    """The largest magnitude of every value on the calibration texts."""
    sequences = calibration.sequences(program)
    peaks = ranges.record(program, sequences, lambda done: stages.step(done, len(sequences)))
    name, peak = max(peaks.items(), key=lambda item: item[1], default=("nothing", 0.0))
    stages.note(f"{len(sequences)} calibration texts; the largest value is {peak:,.0f} at {name}")
    return peaks


@dataclass(frozen=True)
class Job:
    """What all artifacts of one export share."""

    source: Source
    origin: Origin
    goldens: Goldens
    peaks: dict[str, float]
    scratch: Path
    out: Path
    drift: Drift | None
    common_looks: int
    proofs: dict[tuple[str, str], Measurement]
    """The emulator's figures by precision and graph."""
    trusts: bool | None
    """Whether the model's code may run while a fault is located; None if none is to be."""


def _one(
    job: Job,
    program: Program,
    passes: Pipeline,
    target_name: str,
    precision: str,
    options: BuildOptions,
    stages: Stages,
) -> Result:
    name = f"{target_name}-{precision}"
    target = registry.target(target_name)
    folder = job.scratch / name
    folder.mkdir()
    first = len(stages.timings)
    start = len(job.drift.looks) if job.drift is not None else 0
    with stages(f"build {name}"):
        census, attention = program.census(), program.attention()
        passes.run(program, pipeline.half(precision, job.peaks, target.typed))
        # A typed target is proved on its very graph; a hinted one on the graph it would have.
        emulable = None if target.typed else _emulable(program, precision, target)
        passes.run(program, target.tail(precision, program.contract, job.peaks))
        emulable = _emulable(program, precision, target) if target.typed else emulable
        contract = target.narrow(program.contract, options)
        goldens = job.goldens.within(contract.max_length)
        final = replace(program, model=program.model.clone(), contract=contract)
        said = target.build(program, precision, folder, options)
        _companions(job.source, program, goldens, folder)
        said += target.finish(folder, contract, precision, _reference(job.source, goldens))
        manifest = bundle.seal(
            folder,
            {
                "goldfold": __version__,
                "target": target_name,
                "precision": precision,
                "contract": contract,
                "origin": job.origin,
                "versions": {**_versions(), **target.versions()},
                "passes": tuple(passes.reports),
                "census": census,
                "attention": attention,
                "notes": tuple(program.notes),
                "options": options,
                "built": said,
            },
        )
        built = Bundle(folder, manifest, None)
        stages.note(f"{built.size / 1e6:.0f} MB")
    encoder = open_encoder(built, proof=True)
    measurement, verdict = verifying.measure(encoder, goldens, stages)
    further = verifying.heads(encoder, goldens, stages, emulable)
    verdict = verifying.with_heads(verdict, further, precision, goldens)
    others = verifying.beside(built, goldens, stages)
    proof = None
    if emulable is not None:
        key = (precision, _digest(emulable))
        if key not in job.proofs:  # once for targets that were given the same graph
            job.proofs[key] = verifying.emulated(emulable, precision, job.goldens, stages)
        proof = job.proofs[key]
        verdict = verifying.both(verdict, proof, precision, job.goldens)
    location = None
    if not verdict.passed and job.trusts is not None:
        made = Made(job.source, passes, final, emulable, target, precision, options, job.trusts)
        location = locating.locate(Suspect(made, goldens, measurement, proof), stages)
    timings = stages.timings[first:]
    looks: list[Look] = []
    if job.drift is not None:  # the common passes' and this artifact's own
        looks = job.drift.looks[: job.common_looks] + job.drift.looks[start:]
    record = verifying.record(
        verdict,
        measurement,
        manifest,
        timings,
        others,
        proof,
        looks,
        verifying.measured(built),
        further,
        location,
    )
    bundle.write_verdict(folder, record)
    path = bundle.publish(folder, job.out, name, verdict.passed)
    seconds = sum(timing.seconds for timing in timings)
    return Result(path, Bundle(path, manifest, record), measurement, verdict, seconds)


def _emulable(program: Program, precision: str, target: Target) -> Program | None:
    """The program whose rounded run is the proof, where this machine does not compute in
    `precision`."""
    if precision == "fp32" or target.executes(precision):
        return None
    copy = replace(program, model=program.model.clone())
    if not target.typed:
        SetPrecision(precision).rewrite(copy.model)
    return copy


def _digest(program: Program) -> str:
    """What tells apart two graphs of one export; their weights follow from them."""
    with weights_aside(program.model):
        return hashlib.sha256(ir.to_proto(program.model).SerializeToString()).hexdigest()


def _companions(source: Source, program: Program, goldens: Goldens, folder: Path) -> None:
    """Everything beside the target's own files."""
    (folder / TOKENIZER).write_text(program.tokenizer, encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    for path in source.licence_files:
        shutil.copyfile(path, folder / path.name)
    if source.card is not None:
        shutil.copyfile(source.card, folder / "MODEL_CARD.md")
    store.save(goldens, folder / bundle.GOLDEN)


def _reference(source: Source, goldens: Goldens) -> Reference:
    """What a target's `finish` may say of the source model."""
    settings = source.path / "config_sentence_transformers.json"
    said = read_object(settings) if settings.is_file() else {}
    backbone = source.path / source.modules[0].path / "config.json"
    return Reference(
        config=read_object(backbone),
        similarity=said.get("similarity_fn_name"),
        token_ids={case.prompt + case.text: case.token_ids for case in goldens.cases},
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnx-ir")
    return {name: version(name) for name in (*packages, "onnxscript", "onnxsim")}


__all__ = ["Manifest", "Result", "export", "obtain_goldens", "prepare"]
