"""Find the one rewrite that breaks the gate, by halving how many are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from exporter.errors import UsageError
from exporter.passes.base import Pass
from exporter.pipeline import Options, Pipeline
from exporter.probing import Look
from exporter.program import Program


@dataclass(frozen=True)
class Culprit:
    """The first application after which the gate fails."""

    number: int
    """Counted from 1, over all optional passes in order."""
    law: str
    place: str
    before: Look
    after: Look
    total: int


def bisect(
    program: Program,
    passes: Sequence[Pass],
    look: Callable[[Program], Look],
    limit: float,
    progress: Callable[[str], None] = lambda text: None,
) -> Culprit | None:
    """The application that takes `look(program).worst` beyond `limit`; None if none does.

    Assumes, as every bisection does, that what is broken stays broken. `program` is left alone.
    Raises UsageError if it is beyond the limit before any optional pass has run.
    """

    def after(count: int | None) -> tuple[Look, Pipeline]:
        copy = replace(program, model=program.model.clone())
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
    good, bad = 0, total
    looks = {good: first, bad: last}
    while bad - good > 1:
        middle = (good + bad) // 2
        looks[middle], _ = after(middle)
        if looks[middle].worst > limit:
            bad = middle
        else:
            good = middle
    law, place = whole.trail[bad - 1]
    return Culprit(bad, law, place, looks[good], looks[bad], total)
