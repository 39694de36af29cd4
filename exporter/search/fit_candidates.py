"""The candidates of a fit (fit.py): what was asked for, what there is, and how large each is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from goldfold.exporter import registry
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import cutting, heads, request
from goldfold.exporter.driver.preparing import legalized, traced
from goldfold.exporter.errors import GateMissed, GoldfoldError, TargetError, UsageError
from goldfold.exporter.frontend import characters
from goldfold.exporter.frontend.derive import derive
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.search import fit_recipe, sizing
from goldfold.exporter.search.sizing import Size, Sizer, shown
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.system.files import expanded
from goldfold.exporter.verification.goldens import check_length
from goldfold.golden.metrics import Metric

_FOR_HAND = ("qat",)
"""Recipes that are for checkpoints of one kind, and are tried where they are asked for."""
SCRIPTS = "latin"
"""The cut that a refusal names as an example."""


@dataclass(frozen=True)
class Wanted:
    """The request for a fit."""

    model: str
    text: str
    """The size as it was written, `100MB`."""
    targets: Sequence[str]
    precisions: Sequence[str]
    """The only candidates; goldfold's own if empty."""
    out: Path
    state: Path | None
    """A folder for the search's results, from which a killed one goes on; none if None."""
    pairs: int
    given: Mapping[str, Any]
    """The other arguments of `goldfold.export`, by name."""

    @property
    def limit(self) -> int:
        return sizing.parse(self.text)

    @property
    def name(self) -> str:
        """The name of the recipes that the search finds."""
        return "fit-" + "".join(self.text.split())


@dataclass
class Candidate:
    """A precision of one target, and what is known of it."""

    target: str
    name: str
    recipe: Recipe | None
    size: Size
    result: Result | None = None
    true: int | None = None
    """The bytes of the built files."""
    loss: Metric | None = None
    state: str = ""
    """Why it was not chosen, in words; "chosen" for the one that was."""

    @property
    def gate(self) -> str:
        return self.name if self.recipe is None else self.recipe.gate

    @property
    def upper(self) -> float:
        """The upper end of the loss; infinite where none was measured."""
        bound = None if self.loss is None else self.loss.upper
        return math.inf if bound is None or not math.isfinite(bound) else bound


@dataclass
class Fitted:
    """Everything that a fit measured."""

    model: str
    fingerprint: str
    wanted: Wanted
    candidates: list[Candidate] = field(default_factory=list)
    pairs_digest: str = ""

    @property
    def results(self) -> list[Result]:
        """The chosen artifacts, one a target."""
        return [one.result for one in self.candidates if one.result and one.state == "chosen"]


def scripts_of(wanted: Wanted) -> tuple[str, ...]:
    """Returns the scripts of the cut that was asked for; none if none was."""
    asked = wanted.given.get("scripts") or ()
    return characters.canonical(asked) if asked else ()


def known(wanted: Wanted, target: str) -> dict[str, Recipe | None]:
    """Returns the candidates of a target that need no search, by name."""
    if wanted.precisions:
        return request.recipes(wanted.precisions)
    found = registry.target(target)
    shipped = {
        name: one
        for name, one in recipes.shipped().items()
        if one.needs <= found.quantizes and name not in _FOR_HAND
    }
    return {**dict.fromkeys(found.precisions), **shipped}


def predict(fitted: Fitted, source: Source, scratch: Path, stages: Stages) -> None:
    """Fill in the candidates, with their sizes. Raises GateMissed where a target has none that
    fits."""
    wanted, given, limit = fitted.wanted, fitted.wanted.given, fitted.wanted.limit
    program = _program(source, wanted, stages)
    length, corpus = given.get("max_length"), given.get("vocabulary")
    path = None if corpus is None else expanded(str(corpus))
    planned = cutting.plan(program, scripts_of(wanted), path, stages)
    base = legalized(program, Pipeline(), length, given.get("dims", ()))
    sizer = Sizer(
        base, scratch, given.get("build", {}), length or base.contract.max_length,
        planned and planned.cut,
    )  # fmt: skip
    least: dict[str, tuple[str, Recipe | None]] = {}
    with stages("sizes"):
        for target in wanted.targets:
            own = _sized(wanted, target, sizer)
            fitted.candidates += own
            near = min(own, key=lambda one: one.size.bytes)
            least[target] = near.name, near.recipe
            small = None if wanted.precisions else fit_recipe.least(base, target)
            if small is not None and sizer(target, small.name, small).bytes < near.size.bytes:
                least[target] = small.name, small
        stages.note(f"{len(fitted.candidates)} predicted")
    missed = {t: pair for t, pair in least.items() if sizer(t, *pair).bytes > limit}
    if missed:
        raise GateMissed(_unreachable(sizer, wanted, missed))
    for target in wanted.targets:
        if not wanted.precisions and not whole(fitted, target, limit):
            found = fit_recipe.find(
                source, (target, limit, wanted.name), sizer, _state(wanted, scratch), length, stages
            )
            if found is not None:
                size = sizer(target, found.name, found)
                fitted.candidates.append(Candidate(target, found.name, found, size))


def _sized(wanted: Wanted, target: str, sizer: Sizer) -> list[Candidate]:
    """Returns the candidates of a target that need no search. One that the model or the target
    does not take is left out where nobody named it."""
    found: list[Candidate] = []
    refusal: GoldfoldError | None = None
    for name, one in known(wanted, target).items():
        try:
            found.append(Candidate(target, name, one, sizer(target, name, one)))
        except (TargetError, UsageError) as error:
            if wanted.precisions:
                raise
            refusal = error
    if not found and refusal is not None:
        raise refusal
    return found


def whole(fitted: Fitted, target: str, limit: int) -> bool:
    """Whether fp32 itself fits: then nothing loses less."""
    return any(
        one.name == "fp32" and one.size.bytes <= limit
        for one in fitted.candidates
        if one.target == target
    )


def _state(wanted: Wanted, scratch: Path) -> Path:
    return scratch / "search" if wanted.state is None else wanted.state


def _program(source: Source, wanted: Wanted, stages: Stages) -> Program:
    length, cache = wanted.given.get("max_length"), open_cache(wanted.given.get("cache", True))
    program = traced(source, stages, length, cache=cache)
    derive(program, source)
    check_length(program.contract, length)
    heads.check(wanted.given.get("dims", ()), program.contract, length)
    return program


def _unreachable(
    sizer: Sizer, wanted: Wanted, missed: Mapping[str, tuple[str, Recipe | None]]
) -> str:
    """Returns the sentence on what comes nearest to a size that nothing reaches, and on what a cut
    would give."""
    sizes = {target: sizer(target, *pair).bytes for target, pair in missed.items()}
    near = "; ".join(
        f"{shown(size)} MB for {target}, by {missed[target][0]}" for target, size in sizes.items()
    )
    said = f"--fit {wanted.text}: nothing reaches it; the nearest is {near}"
    if sizer.cut is not None:
        return said
    try:
        planned = cutting.plan(sizer.base, (SCRIPTS,), None, Stages())
    except GoldfoldError as error:
        return f"{said}; its vocabulary cannot be cut: {error}"
    assert planned is not None
    cut = sizer.with_cut(planned.cut)
    cuts = ", ".join(f"{shown(cut(target, *pair).bytes)} MB" for target, pair in missed.items())
    return f"{said}; with --scripts {SCRIPTS} it would be {cuts}"
