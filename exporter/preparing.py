"""Model → the program that targets start from: traced, simplified, rewritten, quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exporter import calibration, heads, pipeline, ranges, registry
from exporter.model import Source
from exporter.pipeline import Pipeline
from exporter.program import Program, Words
from exporter.quantize import plan
from exporter.quantize.recipe import Recipe
from exporter.stages import Stages

Loaded = Callable[[Words], None]


def prepare(
    source: Source,
    stages: Stages,
    passes: Pipeline,
    trust_remote_code: bool = False,
    max_length: int | None = None,
    dims: Sequence[int] = (),
    loaded: Loaded = lambda words: None,
) -> Program:
    """Trace, simplify and rewrite: the program that every floating precision starts from, for texts
    of at most `max_length` tokens and with the heads `dims`. `loaded` is as in exporter.trace."""
    program = legal(source, stages, passes, trust_remote_code, max_length, dims, loaded)
    rewrite(program, None, passes, stages)
    return program


def legal(
    source: Source,
    stages: Stages,
    passes: Pipeline,
    trust_remote_code: bool = False,
    max_length: int | None = None,
    dims: Sequence[int] = (),
    loaded: Loaded = lambda words: None,
) -> Program:
    """Trace, simplify, and make legal everywhere: what the common laws start from."""
    program = traced(source, stages, trust_remote_code, loaded)
    if max_length is not None:
        program.contract = program.contract.model_copy(update={"max_length": max_length})
    if dims:
        heads.add(program, dims)
    passes.run(program, pipeline.EARLY)
    return program


def rewrite(program: Program, recipe: Recipe | None, passes: Pipeline, stages: Stages) -> None:
    """The common laws; with a recipe, as it wants the norms' gains."""
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
) -> dict[str, float]:
    """What the recipe says, on a program that `rewrite` has seen. Returns the largest magnitude of
    every value where one of `pairs` (target, precision) asks for it, as `peaks_for` does."""
    with stages("calibrate"):
        plan.check(recipe, program)
        sequences = calibration.short(program)
        passes.run(program, plan.balance(recipe, program, sequences, stages.step))
        stages.note(f"{len(sequences)} texts")
    peaks = peaks_for(program, pairs, stages)  # integers change no value beyond their rounding
    with stages("quantize"):
        reports = passes.run(program, plan.laws(recipe, program, sequences, stages.step))
        stages.note(", ".join(f"{r.name} ×{r.applied}" for r in reports if r.applied) or "nothing")
    return peaks


def traced(
    source: Source,
    stages: Stages,
    trust_remote_code: bool = False,
    loaded: Loaded = lambda words: None,
) -> Program:
    """Trace and simplify: the program before any pass."""
    with stages("trace"):
        from exporter.trace import trace

        program = trace(
            source, trust_remote_code=trust_remote_code, progress=stages.detail, loaded=loaded
        )
        stages.note(f"{len(program.graph)} nodes, {program.parameters() / 1e6:.1f} M parameters")
    with stages("simplify"):
        from exporter.simplify import simplify

        simplify(program)
        stages.note(f"{len(program.graph)} nodes")
    return program


def peaks_for(
    program: Program, pairs: Sequence[tuple[str, str]], stages: Stages
) -> dict[str, float]:
    """`record_ranges`, where a pair of target and precision asks for it; else nothing."""
    for target, precision in pairs:
        floating = registry.floating(target, precision)
        if pipeline.asks_ranges(floating, registry.target(target).typed):
            with stages("ranges"):
                return record_ranges(program, stages)
    return {}


def record_ranges(program: Program, stages: Stages) -> dict[str, float]:
    """The largest magnitude of every value on the calibration texts."""
    sequences = calibration.sequences(program)
    peaks = ranges.record(program, sequences, lambda done: stages.step(done, len(sequences)))
    own = [(peak, name) for name, peak in peaks.items() if not name.endswith(ranges.SCORES)]
    peak, name = max(own, default=(0.0, "nothing"))
    stages.note(f"{len(sequences)} calibration texts; the largest value is {peak:,.0f} at {name}")
    return peaks
