"""Model in, verified artifacts out: the order of everything, in one function."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from goldfold.exporter import __version__, registry, report
from goldfold.exporter.artifact import bundle, sidecars, unbuilt
from goldfold.exporter.artifact.bundle import Bundle, Manifest
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.artifact.unbuilt import Failure
from goldfold.exporter.contract import Words
from goldfold.exporter.diagnose.failure import Made
from goldfold.exporter.diagnose.pass_drift import Drift
from goldfold.exporter.driver import heads, proving, request
from goldfold.exporter.driver.preparing import (
    legalized,
    peaks_for,
    prepare,
    quantize,
    record_ranges,
    rewrite,
    traced,
)
from goldfold.exporter.driver.proving import Built, Job
from goldfold.exporter.errors import UsageError
from goldfold.exporter.evaluate import value_roles
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.options import NOTHING_ASKED, BuildOptions, check_taken
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Options, Pipeline
from goldfold.exporter.passes.set_precision import Kind, SetPrecision
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.verification.goldens import check_length, obtain_goldens, origin_of, ours
from goldfold.exporter.verification.judging import Fp32, convene, fp32_embed
from goldfold.golden.judging.pairs import LEAST

if TYPE_CHECKING:
    from goldfold.targets.base import Begun, Target


@ours()
def export(
    model: str | Path,
    targets: Sequence[str] = ("openvino",),
    precisions: Sequence[str] = ("fp32",),
    out: str | Path = "out",
    *,
    name: str | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    allow_incomplete: bool = False,
    options: Options = Options(),  # noqa: B008 — frozen
    verify_each: bool = False,
    max_length: int | None = None,
    dims: Sequence[int] = (),
    build: BuildOptions = NOTHING_ASKED,
    locate: bool = True,
    cache: bool = True,
    judge: bool = False,
    pairs: int = LEAST,
    listener: Listener | None = None,
) -> list[Result]:
    """Export `model` for every pair of target and precision, and verify each artifact.

    Args:
        model: a SentenceTransformer folder, or a hub id.
        targets: names of targets; `precisions`: names of precisions, or files of recipes
            (exporter/quantize/recipe.py). Every pair is built.
        out: where artifact folders go, as `out/<target>-<precision>`.
        name: what to call the model; its folder's name if not given.
        force: write into a folder that holds other things; only artifacts are ever replaced.
        trust_remote_code: run code that comes with the model.
        allow_incomplete: export a checkpoint that lacks tensors of the model, or holds some that
            nothing reads; the manifest's notes name them.
        options: passes to skip, where to stop, where to dump (passes/pipeline.py).
        verify_each: record the drift after every pass and, with `locate`, every layer.
        max_length: the most tokens a text may have; the model's own number if not given.
        dims: sizes of the embedding (Matryoshka); the largest is `sentence_embedding`, the others
            are further outputs. The model's own if not given.
        build: what is asked of the targets beyond precisions (BuildOptions).
        locate: find out where an artifact that misses its gate goes wrong (diagnose/locating.py).
        cache: take finished stages from the user's cache, and keep them there (system/cache.py).
        judge: judge every quantized artifact on the Lee corpus and code retrieval, and hold it to
            its gate's limit: minutes for each, and once for the fp32 reference
            (verification/losses.py).
        pairs: how many docstrings and functions; more of them leave less to chance.
        listener: is told what happens (goldfold.exporter.progress.Listener).

    Returns:
        One Result an artifact, in order. Look at `.passed`: a missed gate does not raise.

    Raises:
        GoldfoldError of the kind that says whose fault it is: before anything is written where what
        is asked for, or the model, is at fault. Where single artifacts cannot be built, in the end:
        `.results` are those that were built and `.failures` say why the others were not; the error
        is that of the highest `code` among them. A full disk and a lack of memory end it at once.
    """
    asked = request.recipes(precisions)
    wanted = request.pairs(targets, asked)
    request.check_sizes(dims, max_length)
    check_taken(build, {name: registry.target(name).takes for name in targets})
    pipeline.check_skips(options.skip)
    cut = options.stop_after is not None or "set-precision" in options.skip
    if cut and any(precision != "fp32" for precision in asked):
        raise UsageError("--stop-after and --skip set-precision leave only fp32 whole")
    if judge:
        request.check_judged(asked, pairs)
    out, stages, kept = Path(out), Stages(listener), open_cache(cache)
    with stages("open"):
        source = open_model(
            model,
            name=name,
            trust_remote_code=trust_remote_code,
            allow_incomplete=allow_incomplete,
        )
        names = [f"{target}-{precision}" for target, precision in wanted]
        bundle.check_output(out, names, force)
        if options.dump is not None:
            if options.dump.resolve().is_relative_to(out.resolve()):
                raise UsageError(f"--dump {options.dump} lies in --out; give it a place of its own")
            bundle.check_writable(options.dump, "--dump")
        request.settle(
            wanted, asked, build, request.ANY_LENGTH
        )  # refuses what no length puts right
        source = ready(source, stages, kept)
        origin = origin_of(source)
    results: dict[tuple[str, str], Result] = {}
    failures: dict[tuple[str, str], Failure] = {}
    trust = source.trusted if locate else None
    with bundle.scratch(out) as scratch, ExitStack() as stack:
        begun: dict[str, Begun | None] = {}

        def fail(pairs: Sequence[tuple[str, str]], error: Exception) -> None:
            """Go on without these; not where the machine is at its end."""
            if unbuilt.stops(error, out):
                raise error
            for pair in pairs:
                failures[pair] = failed = unbuilt.failure(*pair, error)
                unbuilt.write(out, failed, scratch)
                stages.fail(failed.name, str(failed.error))

        def loaded(words: Words) -> None:
            """Let the targets start what needs no graph."""
            words = words if max_length is None else replace(words, max_length=max_length)
            for name in {target: None for target, _ in wanted if target not in begun}:
                begun[name] = started = registry.target(name).begin(words, scratch, kept)
                if started is not None:
                    stack.callback(started.close)

        program = traced(source, stages, max_length, loaded, kept)
        check_length(program.contract, max_length)
        heads.check(dims, program.contract.dim)
        settled = request.settle(wanted, asked, build, max_length or program.contract.max_length)
        with stages("goldens"):
            longest = max_length or program.contract.max_length
            goldens = obtain_goldens(source, stages, max_length, longest)
            if not goldens.cases:
                raise UsageError(f"--max-length {max_length}: no golden text is as short as that")
        judges = None
        if judge:
            fp32 = fp32_embed(source)
            judges = convene(stages, Fp32(source.name, origin.fingerprint, fp32), count=pairs)
        drift = Drift(goldens, stages) if verify_each else None
        passes = Pipeline(options, drift)
        groups = _groups(wanted, asked)
        # Programs are popped where they are used up; others are copies that share the weights.
        bases = [legalized(program, passes, max_length, dims)]
        del program
        looks = list(drift.looks) if drift is not None else []
        for group, members in groups.items():
            recipe = asked.get(group)
            programs = [bases.pop() if group == list(groups)[-1] else bases[0].copy()]
            run = passes.fork(group)  # of "" as well: one group's laws are not another's
            first = 0 if drift is None else len(drift.looks)
            try:
                rewrite(programs[0], recipe, run, stages)
                if recipe is None:
                    peaks = peaks_for(programs[0], members, stages, kept)
                else:
                    peaks = quantize(programs[0], recipe, run, stages, members, kept)
            except Exception as error:
                fail(members, error)
                continue
            seen = looks + (drift.looks[first:] if drift is not None else [])
            shared = (source, origin, goldens, build, peaks, scratch, out, drift, seen, {}, begun)
            job = Job(*shared, recipe, trust, judges)
            for pair in members:
                name = "-".join(pair)
                # What is measured is the artifact: no name here keeps its program, which would only
                # fill memory.
                own = [programs.pop() if pair == members[-1] else programs[0].copy()]
                try:
                    built = _build(job, own.pop(), run.fork(name), *pair, settled[pair], stages)
                    gc.collect()  # a graph is full of cycles
                    results[pair] = proving.prove(job, built, stages)
                    unbuilt.clear(out, name)
                except Exception as error:
                    fail([pair], error)
                    gc.collect()
    report.after_export(out, stages)
    done = [results[pair] for pair in wanted if pair in results]
    if failures:
        failed = [failures[pair] for pair in wanted if pair in failures]
        raised = unbuilt.worst(failed, len(wanted))
        raised.results, raised.failures = done, failed
        raise raised
    return done


def _groups(
    pairs: Sequence[tuple[str, str]], asked: Mapping[str, Recipe | None]
) -> dict[str, list[tuple[str, str]]]:
    """Pairs that start from one program: all floating precisions ("", and they come first), and
    each recipe's."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for pair in sorted(pairs, key=lambda pair: asked[pair[1]] is not None):
        groups.setdefault("" if asked[pair[1]] is None else pair[1], []).append(pair)
    return groups


def _build(
    job: Job,
    program: Program,
    passes: Pipeline,
    target_name: str,
    precision: str,
    options: BuildOptions,
    stages: Stages,
) -> Built:
    """The target's files and all that lies beside them, sealed. Uses `program` up."""
    name = f"{target_name}-{precision}"
    target = registry.target(target_name)
    floating = registry.floating(target_name, precision, job.recipe and job.recipe.around)
    folder = job.scratch / name
    folder.mkdir()
    first_timing = len(stages.timings)
    first_look = len(job.drift.looks) if job.drift is not None else 0
    with stages(f"build {name}"):
        census, attention = program.census(), program.attention()
        peaks = job.peaks if pipeline.asks_ranges(floating, target.typed) else {}
        named = value_roles.named(program) if peaks else {}
        passes.run(program, pipeline.half(floating, job.peaks, target.typed, target.products))
        ranges = value_roles.summary(named, peaks, program, target.typed) if peaks else ()
        # A typed target is proved on its very graph; a hinted one on the graph it would have.
        emulable = None if target.typed else _emulable(program, floating, target)
        passes.run(program, target.tail(floating, program.contract, job.peaks))
        emulable = _emulable(program, floating, target) if target.typed else emulable
        contract = target.narrow(program.contract, options)
        goldens = job.goldens.within(contract.max_length)
        made = None
        if job.trusts is not None:
            final = replace(program.copy(), contract=contract)
            names = (floating, precision, job.gate(precision))
            made = Made(job.source, passes, final, emulable, target, *names, options, job.trusts)
        done = target.make(program, floating, folder, options, job.asked.only(target.takes))
        options, said = done.options, done.said + done.left_out
        made = made and replace(made, options=options)
        sidecars.write(job.source, program, contract, goldens, folder)
        reference = sidecars.reference(job.source, goldens)
        said += target.finish(folder, contract, floating, reference, job.begun.get(target_name))
        manifest = bundle.seal(
            folder,
            {
                "goldfold": __version__,
                "target": target_name,
                "precision": precision,
                "recipe": job.recipe,
                "contract": contract,
                "origin": job.origin,
                "versions": {**sidecars.versions(), **target.versions()},
                "passes": tuple(passes.reports),
                "census": census,
                "attention": attention,
                "notes": tuple(program.notes),
                "options": options,
                "built": said,
            },
        )
        built = Bundle(folder, manifest, None)
        stages.note("; ".join((f"{built.size / 1e6:.0f} MB", *done.left_out)))
    return Built(built, goldens, emulable, made, first_timing, first_look, ranges)


def _emulable(program: Program, precision: str, target: Target) -> Program | None:
    """The program whose rounded run is the proof, where this machine does not compute in
    `precision`."""
    if precision == "fp32" or target.executes(precision):
        return None
    copy = program.copy()
    if not target.typed:
        SetPrecision(cast(Kind, precision)).rewrite(copy.model)
    return copy


__all__ = ["Manifest", "Result", "export", "obtain_goldens", "prepare", "record_ranges", "traced"]
