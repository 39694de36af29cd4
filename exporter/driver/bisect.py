"""Bisection: find the one application of a pass that breaks the gate, by halving the number of
applications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from goldfold.exporter.diagnose.halving import first_wrong
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.base import Pass
from goldfold.exporter.passes.pipeline import Options, Pipeline
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.records import Look
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.verification.goldens import check_length, obtain_goldens, ours


@dataclass(frozen=True)
class Culprit:
    """The first application after which the gate fails."""

    number: int
    """Counted from 1, over all optional passes in order."""
    pass_name: str
    place: str
    before: Look
    after: Look
    total: int

    def sentence(self) -> str:
        """The result in one sentence: the pass, the place and the 1−cos."""
        return (
            f"{self.pass_name} at {self.place} (application {self.number} of {self.total}) takes "
            f"the worst 1−cos from {self.before.worst:.1e} to {self.after.worst:.1e}, "
            f"at text {self.after.worst_id}"
        )


@ours()
def search(
    model: str,
    precision: str,
    limit: float | None,
    *,
    max_length: int | None = None,
    cache: bool = True,
    listener: Listener | None = None,
    **opening: Any,
) -> Culprit | None:
    """Open and trace `model`, then bisect the passes of `precision` on its short goldens.

    Half precision is bisected on its typed program, in the emulator. `limit` is the precision's
    gate by default; `max_length` and `cache` are as in `export`, and so are `trust_remote_code` and
    `route`, which may be in `opening`. Raises GoldfoldError as that does.
    """
    from goldfold.exporter.diagnose.pass_drift import look
    from goldfold.exporter.driver import preparing
    from goldfold.exporter.passes import pipeline
    from goldfold.exporter.registry import FLOATS
    from goldfold.golden.gate import limits

    if precision not in FLOATS:
        raise UsageError(
            f"precision {precision!r} cannot be bisected; these can: {', '.join(FLOATS)}"
        )
    if limit is not None and not 0 < limit < 2:
        raise UsageError(f"--limit is {limit}; 1−cos lies between 0 and 2")
    stages, kept = Stages(listener), open_cache(cache)
    with stages("open"):
        source = ready(open_model(model, **opening), stages, kept)
    program = preparing.traced(source, stages, max_length, cache=kept)
    check_length(program.contract, max_length)
    with stages("goldens"):
        longest = max_length or program.contract.max_length
        goldens = obtain_goldens(source, stages, max_length, longest)
    bound = limits(precision, goldens).worst if limit is None else limit
    if max_length is not None:
        program.contract = program.contract.shortened(max_length)
    passes = (*pipeline.EARLY, *pipeline.common(program.contract))
    peaks: dict[str, float] = {}
    reach: dict[str, float] = {}
    if pipeline.asks_ranges(precision, typed=True):
        with stages("ranges"):
            rewritten = program.copy()
            pipeline.run(rewritten, passes)
            peaks = preparing.record_ranges(rewritten, stages, kept)
        reach = preparing.bounds_for(rewritten, [("onnxruntime", precision)], stages)
    passes = (*passes, *pipeline.half(precision, peaks, typed=True, bounds=reach))
    with stages("bisect"):
        return bisect(program, passes, lambda p: look(p, goldens), bound, stages.detail)


def bisect(
    program: Program,
    passes: Sequence[Pass],
    look: Callable[[Program], Look],
    limit: float,
    progress: Callable[[str], None] = lambda text: None,
) -> Culprit | None:
    """Returns the application that takes `look(program).worst` beyond `limit`; None if none does.

    Assumes that a broken program stays broken. `program` is left alone. Raises UsageError if it is
    beyond the limit before any optional pass has run.
    """

    def after(count: int | None) -> tuple[Look, Pipeline]:
        copy = program.copy()
        run = Pipeline(Options(stop_after=count))
        run.run(copy, passes)
        found = look(copy)
        progress(f"{len(run.trail)} applications: worst 1−cos {found.worst:.1e}")
        return found, run

    last, whole = after(None)
    total = len(whole.trail)
    if last.worst <= limit:
        return None
    first, _ = after(0)
    if first.worst > limit:
        raise UsageError(
            f"the traced program is beyond {limit:g} before any optional pass (text "
            f"{first.worst_id}: {first.worst:.1e}); the fault is in the trace, not in a pass"
        )
    looks = {0: first, total: last}

    def holds(count: int) -> bool:
        looks[count], _ = after(count)
        return looks[count].worst <= limit

    bad = first_wrong(0, total, holds)
    law, place = whole.trail[bad - 1]
    return Culprit(bad, law, place, looks[bad - 1], looks[bad], total)
