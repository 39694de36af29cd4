"""Model → the program that targets start from: traced, simplified, rewritten, quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.contract import Words
from goldfold.exporter.driver import cached_stages, heads
from goldfold.exporter.evaluate import bounds, ranges
from goldfold.exporter.frontend.derive import derive
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Arrays, Program, mark_makers
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.set_precision import Kind, SetPrecision
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import plan, texts
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.quantize.texts import Own
from goldfold.exporter.system.cache import Cache

if TYPE_CHECKING:
    from goldfold.targets.base import Target

Loaded = Callable[[Words], None]


def prepare(
    source: Source,
    stages: Stages,
    passes: Pipeline,
    max_length: int | None = None,
    dims: Sequence[int] = (),
    loaded: Loaded = lambda words: None,
    cache: Cache | None = None,
) -> Program:
    """Trace, simplify and rewrite a model into the program that every floating precision starts
    from, for texts of at most `max_length` tokens and with the heads `dims`. `loaded` is as in
    frontend/trace/."""
    program = traced(source, stages, max_length, loaded, cache)
    derive(program, source)
    legalized(program, passes, max_length, dims)
    rewrite(program, None, passes, stages)
    return program


def legalized(
    program: Program, passes: Pipeline, max_length: int | None = None, dims: Sequence[int] = ()
) -> Program:
    """Make a traced program legal, for texts of at most `max_length` tokens and with the heads
    `dims`. Changes `program`."""
    if max_length is not None:
        program.contract = program.contract.shortened(max_length)
    heads.check(dims, program.contract)
    if dims:
        heads.add(program, dims)
        mark_makers(program.graph, "heads")
    passes.run(program, pipeline.EARLY)
    return program


def rewrite(program: Program, recipe: Recipe | None, passes: Pipeline, stages: Stages) -> None:
    """Run the common passes; with a recipe, they treat the norms' gains as it requires."""
    gains = "full" if recipe is None or recipe.gains == "fold" else "none"
    with stages("rewrite"):
        passes.run(program, pipeline.common(program.contract, gains))
        stages.note(
            ", ".join(f"{r.name} ×{r.applied}" for r in passes.reports if r.applied)
            + f"; {program.parameters() / 1e6:.1f} M parameters"
        )


def quantize(
    program: Program,
    recipe: Recipe,
    passes: Pipeline,
    stages: Stages,
    pairs: Sequence[tuple[str, str]],
    cache: Cache | None = None,
    own: Sequence[Own] = (),
) -> dict[str, float]:
    """Quantize a program as the recipe says, after `rewrite`, by the calibration texts `own` if
    there are any. Returns the largest magnitude of every value where one of `pairs` (target,
    precision) asks for it, as `peaks_for` does."""
    with stages("calibrate"):
        halved = plan.halved(recipe, plan.check(recipe, program))
        sequences = texts.steering(recipe, program, own)
        keep = partial(cached_stages.measured, cache, program, sequences, recipe)
        passes.run(program, plan.balance(recipe, program, sequences, stages.step, keep))
        stages.note(f"{len(sequences)} texts{halved and f'; {halved}'}{_remarks(cache)}")
    # Integers change no value beyond rounding.
    peaks = peaks_for(program, pairs, stages, cache, own)
    with stages("quantize"):
        rounds = plan.passes(recipe, program, sequences, stages.step, keep)
        applied = [f"{r.name} ×{r.applied}" for r in passes.run(program, rounds) if r.applied]
        stages.note((", ".join(applied) or "nothing") + _remarks(cache))
    return peaks


def traced(
    source: Source,
    stages: Stages,
    max_length: int | None = None,
    loaded: Loaded = lambda words: None,
    cache: Cache | None = None,
) -> Program:
    """Trace and simplify: the program before any pass, or the one that `cache` holds.

    `max_length` is the longest text to expect, for models that have no length of their own; the
    program keeps the model's length.
    """
    # A model's own code may do what its files do not say, and its permission is for one run: no
    # cache.
    kept = None if source.trusted or source.incomplete else cache
    with stages("trace"):
        program = None if kept is None else cached_stages.find_trace(kept, source)
        if program is not None:
            loaded(Words.of(program.contract, program.tokenizer))
            stages.note(f"{_size(program)}{_remarks(cache)}")
            return program
        from goldfold.exporter.frontend.trace import trace

        program = trace(source, max_length=max_length, progress=stages.detail, loaded=loaded)
        program.notes[:0] = source.notes
        source.check_unchanged()  # before it is kept under their digests
        stages.note(f"{_size(program)}{_remarks(cache)}")
    with stages("simplify"):
        from goldfold.exporter.frontend.simplify import simplify

        simplify(program)
        if kept is not None and program.lasting:
            cached_stages.keep_trace(kept, source, program)
        stages.note(f"{len(program.graph)} nodes{_remarks(cache)}")
    return program


def peaks_for(
    program: Program,
    pairs: Sequence[tuple[str, str]],
    stages: Stages,
    cache: Cache | None = None,
    own: Sequence[Own] = (),
) -> dict[str, float]:
    """Returns `record_ranges` where a pair of target and precision asks for it; otherwise
    nothing."""
    for target, precision in pairs:
        floating = registry.floating(target, precision)
        if pipeline.asks_ranges(floating, registry.target(target).strongly_typed):
            with stages("ranges"):
                return record_ranges(program, stages, cache, own)
    return {}


def bounds_for(
    program: Program, pairs: Sequence[tuple[str, str]], stages: Stages
) -> dict[str, float]:
    """Returns the bounds on values that hold for every text, where a pair of target and precision
    is computed in fp16; otherwise nothing."""
    if all(registry.floating(*pair) != "fp16" for pair in pairs):
        return {}
    with stages("bounds"):
        found = bounds.of(program, half=True)
        closed = sum(bound < float("inf") for bound in found.largest.values())
        stages.note(f"{closed:,} of {len(found.largest):,} values have a bound for every text")
    return found.largest


def record_ranges(
    program: Program, stages: Stages, cache: Cache | None = None, own: Sequence[Own] = ()
) -> dict[str, float]:
    """Returns the largest magnitude of every value on the calibration texts, those of `own` if
    there are any."""
    sequences = texts.calibration(program, own)

    def make() -> Arrays:
        found = ranges.record(program, sequences, lambda done: stages.step(done, len(sequences)))
        return {name: np.array(peak) for name, peak in found.items()}

    arrays = cached_stages.measured(cache, program, sequences, None, "ranges", make)
    peaks = {name: float(peak) for name, peak in arrays.items()}
    single = [(peak, name) for name, peak in peaks.items() if not name.endswith(ranges.SCORES)]
    peak, name = max(single, default=(0.0, "nothing"))
    stages.note(
        f"{len(sequences)} calibration texts; the largest value is {peak:,.0f} at {name}"
        f"{_remarks(cache)}"
    )
    return peaks


def emulable_of(program: Program, precision: str, target: Target) -> Program | None:
    """Returns the program whose rounded run is the proof, where this machine does not compute in
    `precision`."""
    if precision == "fp32" or target.executes(precision):
        return None
    return program.copy() if target.strongly_typed else halved_of(program, precision)


def halved_of(program: Program, precision: str) -> Program:
    """Returns the program that a runtime which takes a hint is asked to compute."""
    copy = program.copy()
    SetPrecision(cast(Kind, precision)).rewrite(copy.model)
    return copy


def _size(program: Program) -> str:
    return f"{len(program.graph)} nodes, {program.parameters() / 1e6:.1f} M parameters"


def _remarks(cache: Cache | None) -> str:
    return "" if cache is None else cache.remarks()
