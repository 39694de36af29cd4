"""The search's part of a fit: what each group loses at each option, and the recipe of least error
within a size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from goldfold.exporter import registry
from goldfold.exporter.driver.preparing import rewrite
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import sites
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.search import groups, knapsack, testbed, trials
from goldfold.exporter.search.groups import Group
from goldfold.exporter.search.search import errors_of, probe
from goldfold.exporter.search.sizing import Sizer
from goldfold.exporter.search.trials import Runner
from goldfold.exporter.verification.goldens import origin_of

LEAST = "the fewest bits of every matrix"


def least(base: Program, target: str) -> Recipe | None:
    """Returns the smallest recipe of the search for a traced and legal program; None where a target
    takes no integers."""
    takes = registry.target(target).quantizes
    program = base.copy()
    rewrite(program, groups.recipe("gains", (), (), "size", False), Pipeline(), Stages())
    found = groups.find(sites.find(program), "size", takes)
    return knapsack.smallest(found, LEAST) if _open(found) else None


def find(
    source: Source,
    asked: tuple[str, int, str],
    sizer: Sizer,
    state: Path,
    max_length: int | None,
    stages: Stages,
) -> Recipe | None:
    """Returns the recipe of least estimated error whose artifact fits; None where none does, and
    where floating point fits.

    Args:
        asked: the target, the most bytes, and the recipe's name.
        state: a folder for results; a search that was killed goes on from it.
    """
    target, limit, name = asked
    takes = registry.target(target).quantizes
    if not takes & {"int8", "int4"}:
        return None
    gains = groups.recipe("gains", (), (), "size", False)
    key = testbed.key_of(origin_of(source).fingerprint + source.route, gains, max_length)
    folder = state.resolve() / key
    if not folder.is_dir():
        testbed.make(source, gains, folder, stages, max_length)
    found = groups.find(trials.opened(folder).sites(), "size", takes)
    if not _open(found):
        return None
    runner = Runner(folder)
    with stages("sensitivity"):
        probes = probe(found, "size", runner, stages)
        stages.note(f"{len(probes)} trials, {runner.ran} of them run now")
    with stages(f"recipe for {target}"):
        made = knapsack.within(
            found, errors_of(found, probes), limit, name,
            lambda recipe: sizer(target, recipe.name, recipe).bytes,
        )  # fmt: skip
        size = 0 if made is None else sizer(target, made.name, made).bytes
        stages.note("none fits" if made is None else f"{size / 1e6:.2f} MB, predicted")
    return made


def _open(found: Sequence[Group]) -> bool:
    """Whether any group has a choice beside floating point."""
    return any(len(group.options) > 1 for group in found)
