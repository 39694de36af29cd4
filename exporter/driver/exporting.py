"""The export: model in, verified artifacts out, and the order of all steps in one function."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from goldfold.exporter import __version__, registry, report
from goldfold.exporter.artifact import bundle, derivations, sidecars
from goldfold.exporter.artifact.bounded import bounds_sentence
from goldfold.exporter.artifact.bundle import Bundle
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.contract import Words
from goldfold.exporter.diagnose.failure import Made
from goldfold.exporter.diagnose.pass_drift import Drift
from goldfold.exporter.driver import cutting, heads, own_texts, proving
from goldfold.exporter.driver.outcomes import Outcomes
from goldfold.exporter.driver.preparing import (
    bounds_for,
    emulable_of,
    halved_of,
    legalized,
    peaks_for,
    quantize,
    rewrite,
    traced,
)
from goldfold.exporter.driver.proving import Built, Group, Proofs, Session
from goldfold.exporter.driver.request import ANY_LENGTH, Pair, Request
from goldfold.exporter.errors import UsageError
from goldfold.exporter.evaluate import bounds, value_bounds, value_roles
from goldfold.exporter.frontend import characters
from goldfold.exporter.frontend.derive import derive
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir import onnx_file
from goldfold.exporter.ir.program import Program
from goldfold.exporter.options import Asked, own
from goldfold.exporter.options import Options as TargetOptions
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Options, Pipeline
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.system.cache import Cache, open_cache
from goldfold.exporter.system.files import expanded
from goldfold.exporter.verification import constants, sourced, yours
from goldfold.exporter.verification import unseen as unseen_texts
from goldfold.exporter.verification.goldens import (
    check_length,
    obtain_goldens,
    origin_of,
    ours,
    with_texts,
)
from goldfold.exporter.verification.judging import Fp32, convene, fp32_embed
from goldfold.exporter.verification.yours import Files
from goldfold.golden import measured
from goldfold.golden.judging.pairs import LEAST

if TYPE_CHECKING:
    from goldfold.targets.base import Begun


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
    build: Asked = TargetOptions(),  # noqa: B008 — frozen
    locate: bool = True,
    cache: bool = True,
    judge: bool = False,
    pairs: int = LEAST,
    unseen: int = 0,
    route: str | None = None,
    scripts: Sequence[str] = (),
    vocabulary: str | Path | None = None,
    texts: Files = (),
    column: str | None = None,
    private_texts: bool = False,
    calibration_texts: Files = (),
    listener: Listener | None = None,
) -> list[Result]:
    """Export `model` for every pair of target and precision, and verify each artifact.

    Args:
        model: a SentenceTransformer folder, or a hub id.
        targets: names of targets; `precisions`: names of precisions, or files of recipes
            (exporter/quantize/recipe.py). Every pair is built.
        out: the folder for the artifact folders, `out/<target>-<precision>`.
        name: the model's name; its folder's name if not given.
        force: write into a folder that holds other things; only artifacts are ever replaced.
        trust_remote_code: run code that comes with the model.
        allow_incomplete: export a checkpoint that lacks tensors of the model, or holds some that
            nothing reads; the manifest's notes name them.
        options: passes to skip, where to stop, where to dump (passes/pipeline.py).
        verify_each: record the drift after every pass and, with `locate`, every layer.
        max_length: the maximum length of a text in tokens; the model's own if not given.
        dims: sizes of the embedding (Matryoshka); the largest is `sentence_embedding`, the others
            are further outputs. The model's own if not given.
        build: options of the targets beyond precisions, by name, as {"buckets": (128, 512)}, or one
            target's own (exporter/options.py).
        locate: locate the fault of an artifact that misses its gate (diagnose/locating.py).
        cache: take finished stages from the user's cache, and keep them there (system/cache.py).
        judge: judge every quantized artifact on the Lee corpus and code retrieval, and apply its
            gate's limit: minutes for each, and once for the fp32 reference
            (verification/losses.py).
        pairs: number of docstrings and functions; more of them leave less to chance.
        unseen: number of unseen texts on which every artifact is compared with the source in fp32
            (verification/unseen.py).
        route: the route of a model that has several (frontend/routes.py).
        scripts: Unicode's names of scripts, as ("latin", "greek"): tokens that no text in them
            needs are left out, and the ids renumbered (docs/vocabulary.md).
        vocabulary: a file of texts, one a line, in UTF-8: tokens that they do not need are left
            out instead.
        texts: files of texts that become goldens, each a path or "PATH:query" (docs/your-texts.md);
            `column` names the field or column of a text.
        private_texts: keep digests and embeddings of these texts in the artifact instead of them.
        calibration_texts: files of texts by which integers and fp16 are calibrated, instead of the
            built-in ones.
        listener: receives the progress (goldfold.exporter.progress.Listener).

    Returns:
        One Result per artifact, in order. Look at `.passed`: a missed gate does not raise; and at
        `.status` for whether the artifact itself ran here.

    Raises:
        GoldfoldError of the class that says whose fault it is: before anything is written where the
        request, or the model, is at fault. Where single artifacts cannot be built, at the end:
        `.results` are those that were built and `.failures` say why the others were not; the error
        is that of the highest `code` among them. A full disk and a lack of memory end it at once.
    """
    request = Request.checked(
        targets=targets,
        precisions=precisions,
        out=Path(out),
        force=force,
        options=options,
        verify_each=verify_each,
        max_length=max_length,
        dims=dims,
        build=build,
        locate=locate,
        judge=judge,
        count=pairs,
        unseen=unseen,
        scripts=characters.canonical(scripts) if scripts else (),
        vocabulary=None if vocabulary is None else expanded(str(vocabulary)),
        texts=own_texts.goldens(texts, column, calibration_texts),
        private=private_texts,
        calibration=own_texts.calibration(calibration_texts, column),
    )
    stages, kept = Stages(listener), open_cache(cache)
    with stages("open"):
        source = open_model(
            model,
            name=name,
            trust_remote_code=trust_remote_code,
            allow_incomplete=allow_incomplete,
            route=route,
        )
        request.check_places()
        request.settled(ANY_LENGTH)  # refuses what no length puts right
        drawn = unseen_texts.draw(source, unseen)
        source = ready(source, stages, kept)
        drawn = drawn and replace(drawn, source=source)
        origin = origin_of(source)
    with bundle.scratch(request.out) as scratch, ExitStack() as stack:
        begun: dict[str, Begun | None] = {}

        def loaded(words: Words) -> None:
            """Let the targets start the work that needs no graph."""
            words = words if max_length is None else replace(words, max_length=max_length)
            if request.cuts:
                return  # the cut decides the tokenizer
            for name in {target: None for target, _ in request.pairs if target not in begun}:
                begun[name] = started = registry.target(name).begin(words, scratch, kept)
                if started is not None:
                    stack.callback(started.close)

        program = traced(source, stages, max_length, loaded, kept)
        derive(program, source)
        check_length(program.contract, max_length)
        heads.check(dims, program.contract, max_length)
        longest = max_length or program.contract.max_length
        settled = request.settled(longest)
        planned = cutting.plan(program, request.scripts, request.vocabulary, stages)
        cut = planned and planned.cut
        with stages("goldens"):
            goldens = obtain_goldens(source, stages, max_length, longest)
            goldens = with_texts(goldens, source, planned.texts if planned else (), max_length)
            if not goldens.cases:
                raise UsageError(f"--max-length {max_length}: no golden text is as short as that")
        goldens = own_texts.added(goldens, source, request, stages)
        request, shared = own_texts.apart(request, goldens)
        witness = sourced.witness_of(source, stages, goldens.max_length)
        inside, outside = cutting.split(goldens, program.tokenizer, cut, program.contract)
        judges = None
        if judge:
            fp32 = Fp32(source.name, origin.fingerprint, fp32_embed(source))
            judges = convene(stages, fp32, count=pairs)
        session = Session(
            request=request,
            source=source,
            origin=origin,
            goldens=inside,
            outside=outside,
            cut=cut,
            witness=witness,
            stages=stages,
            scratch=scratch,
            drift=Drift(goldens, stages, cut=inside) if verify_each else None,
            judges=judges,
            unseen=drawn,
            begun=begun,
            shared=shared,
        )
        programs = [program]
        del program
        done = _build_all(session, programs, settled, kept)
    report.after_export(request.out, stages)
    return done.returned(request.pairs)


def _build_all(
    session: Session,
    programs: list[Program],
    settled: Mapping[Pair, TargetOptions],
    kept: Cache | None,
) -> Outcomes:
    """Build every artifact from the traced program, which is taken out of `programs`.

    Programs are popped where they are used up, and a name keeps none: others are copies that share
    the weights, and one that is not needed any more only fills memory.
    """
    request, stages, drift = session.request, session.stages, session.drift
    done = Outcomes(session)
    passes = Pipeline(request.options, drift)
    bases = [legalized(programs.pop(), passes, request.max_length, request.dims)]
    looks = tuple(drift.looks) if drift is not None else ()
    groups = request.groups()
    for name, members in groups.items():
        recipe = request.recipes.get(name)
        shared = [bases.pop() if name == list(groups)[-1] else bases[0].copy()]
        run = passes.fork(name)  # of "" as well: one group's passes are not another's
        first = 0 if drift is None else len(drift.looks)
        try:
            rewrite(shared[0], recipe, run, stages)
            learned = own_texts.learns(recipe, shared[0])
            if recipe is None:
                peaks = peaks_for(shared[0], members, stages, kept, request.calibration)
            else:
                own_set = request.calibration
                peaks = quantize(shared[0], recipe, run, stages, members, kept, own_set)
            reach = bounds_for(shared[0], members, stages)
            cutting.apply(shared[0], session.cut, run)
        except Exception as error:
            done.fail(members, error)
            continue
        seen = (*looks, *(drift.looks[first:] if drift is not None else ()))
        proofs = Proofs(session.goldens, stages)
        group = Group(session, recipe, peaks, reach, seen, proofs, learned)
        for pair in members:
            one = [shared.pop() if pair == members[-1] else shared[0].copy()]
            try:
                built = _build(group, one.pop(), run.fork("-".join(pair)), pair, settled[pair])
                gc.collect()  # a graph is full of cycles
                done.built(pair, proving.prove(group, built))
            except Exception as error:
                done.fail([pair], error)
                gc.collect()
    return done


def _build(
    group: Group, program: Program, passes: Pipeline, pair: Pair, options: TargetOptions
) -> Built:
    """Build the target's files and the sidecars, and seal the folder. Uses `program` up."""
    session, (target_name, precision) = group.session, pair
    stages, name = session.stages, "-".join(pair)
    target = registry.target(target_name)
    floating = registry.floating(target_name, precision, group.recipe and group.recipe.around)
    folder = session.scratch / name
    folder.mkdir()
    first_timing = len(stages.timings)
    first_look = len(session.drift.looks) if session.drift is not None else 0
    with stages(f"build {name}"):
        census, attention = program.census(), program.attention()
        peaks = group.peaks if pipeline.asks_ranges(floating, target.strongly_typed) else {}
        named = value_roles.named(program) if peaks else {}
        passes.run(
            program,
            pipeline.half(
                floating, group.peaks, target.strongly_typed, target.integer_sums, group.bounds
            ),
        )
        ranges = value_roles.summary(named, peaks, program, target.strongly_typed) if peaks else ()
        # A strongly typed target is proved on its very graph; a hinted one on the graph it would
        # have.
        emulable = None if target.strongly_typed else emulable_of(program, floating, target)
        rounded = emulable if peaks and not target.strongly_typed else None
        if peaks and rounded is None and not target.strongly_typed:
            rounded = halved_of(program, floating)
        passes.run(program, target.first_passes(options))
        passes.run(program, target.backend_passes(floating, program.contract, group.peaks))
        rounded = rounded or program
        reach = value_bounds.table(named, bounds.of(rounded), rounded) if peaks else ()
        del rounded
        passes.run(program, target.last_passes(options))
        emulable = emulable_of(program, floating, target) if target.strongly_typed else emulable
        ranges = value_bounds.joined(ranges, reach)
        contract = target.narrow(program.contract, options)
        goldens = session.goldens.within(contract.max_length)
        made = None
        final = replace(program.copy(), contract=contract)
        if session.request.locate and session.cut is None:  # a place is found by uncut ids
            made = Made(
                source=session.source,
                pipeline=passes,
                final=final,
                emulable=emulable,
                target=target,
                precision=floating,
                asked=precision,
                gate=group.gate(precision),
                options=options,
                rounds=group.recipe is not None and group.recipe.rounds,
                trusts=session.source.trusted,
            )
        derived, skeleton = derivations.text_of(program), onnx_file.skeleton(program)
        done = target.make(
            program, floating, folder, options, own(target.Options, session.request.build)
        )
        derivations.write(derived, program, folder)
        options, said = done.options, done.said + done.left_out
        made = made and replace(made, options=options)
        sidecars.write(session.source, program, contract, goldens, folder)
        sidecars.write_outside(session.outside, contract, folder)
        said += sourced.settle(folder, contract)
        witness = sourced.facing(session.witness, program.tokenizer, contract)
        texts = partial(sourced.texts_of, witness)
        reference = sidecars.reference(session.source, goldens, texts, program.kept)
        said += target.finish(folder, contract, floating, reference, session.begun.get(target_name))
        target.write_loader(folder, contract, floating)
        owed = sourced.stated(
            witness, program.contract, session.request.max_length, session.request.dims
        )
        fingerprint = session.origin.fingerprint
        owed = target.narrow(owed, options)
        again = partial(
            target.restate,
            contract=owed,
            precision=floating,
            reference=reference,
            tokenizer=program.tokenizer,
            options=options,
        )
        sourced.keep(folder, witness, owed, target_name, fingerprint, again)
        manifest = bundle.seal(
            folder,
            {
                "structure": constants.finish(folder, skeleton, done.proved),
                "goldfold": __version__,
                "target": target_name,
                "precision": precision,
                "recipe": group.recipe,
                "contract": contract,
                "origin": session.origin,
                "versions": {**sidecars.versions(), **target.versions()},
                "passes": tuple(passes.reports),
                "census": census,
                "attention": attention,
                "notes": (*program.notes, *measured.notes(goldens.longest, contract.max_length)),
                "options": options.plain(),
                "built": said,
                "bounds": reach,
                "texts": yours.described(goldens),
                "calibration": own_texts.calibrated(session, group),
            },
        )
        built = Bundle(folder, manifest, None)
        bounded = (bounds_sentence(reach),) if reach else ()
        stages.note("; ".join((f"{built.size / 1e6:.0f} MB", *bounded, *done.left_out)))
    return Built(built, goldens, [final], emulable, made, first_timing, first_look, ranges)
