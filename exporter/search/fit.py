"""`goldfold export --fit`: the artifact of least loss in retrieval that fits a size.

Sizes of all candidates are predicted first (sizing.py). Those that fit and whose gates are the
tightest are built, with the recipe that the search finds for this very size (knapsack.py), and
pass the gates of every export; those that pass retrieve, on texts that nothing else reads. The
least upper bound of the loss wins, and of two equal ones the smaller artifact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from goldfold.exporter import registry, report
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import cutting, exporting, heads, request
from goldfold.exporter.driver.preparing import legalized, traced
from goldfold.exporter.errors import GateMissed, GoldfoldError, TargetError, UsageError
from goldfold.exporter.frontend import characters
from goldfold.exporter.frontend.derive import derive
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import Source, open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.search import fit_recipe, sizing, trials
from goldfold.exporter.search.outcome import to_toml
from goldfold.exporter.search.sizing import Size, Sizer, shown
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.system.files import expanded
from goldfold.exporter.verification import retrieving
from goldfold.exporter.verification.goldens import check_length, ours
from goldfold.exporter.verification.judging import Fp32, Judges, convene, fp32_embed
from goldfold.golden.errors import Unrankable
from goldfold.golden.gate import GATES
from goldfold.golden.metrics import Metric

MEASURED = 2
"""Candidates of a target that are built beside the search's own: those of the tightest gates."""
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


@ours()
def fit(wanted: Wanted, listener: Listener | None = None) -> Fitted:
    """Build the artifact of least loss that fits a size, one for each target.

    Raises:
        GateMissed: nothing fits, or nothing that fits passes its gate; nothing is written then.
        GoldfoldError of the kind that says whose fault it is.
    """
    stages, limit, given = Stages(listener), wanted.limit, wanted.given
    _check(wanted)
    with stages("open"):
        source = open_model(
            wanted.model,
            name=given.get("name"),
            trust_remote_code=given.get("trust_remote_code", False),
            allow_incomplete=given.get("allow_incomplete", False),
            route=given.get("route"),
        )
        embed = fp32_embed(source)  # refuses a model whose retrieval cannot be judged
        names = [f"{t}-{p}" for t in wanted.targets for p in _known(wanted, t)]
        names += [f"{target}-{wanted.name}" for target in wanted.targets]
        made = not wanted.out.exists()
        bundle.check_output(wanted.out, names, given.get("force", False))
        source = ready(source, stages, open_cache(given.get("cache", True)))
    fitted = Fitted(source.name, source.fingerprint, wanted)
    try:
        with bundle.scratch(wanted.out) as scratch:
            _predict(fitted, source, scratch, stages)
            judges = convene(
                stages,
                Fp32(source.name, source.fingerprint, embed),
                count=wanted.pairs,
                skip=("lee", "ranks"),
            )
            assert judges.pairs is not None
            fitted.pairs_digest = judges.pairs.digest
            for target in wanted.targets:
                _measure(fitted, target, scratch, judges, stages)
            for target in wanted.targets:
                _choose(fitted, target, limit)
            for one in fitted.candidates:
                if one.state == "chosen" and one.result is not None:
                    one.result = _published(one.result, wanted.out)
    except BaseException:
        if made and wanted.out.is_dir() and not any(wanted.out.iterdir()):
            wanted.out.rmdir()
        raise
    report.after_export(wanted.out, stages)
    return fitted


def _check(wanted: Wanted) -> None:
    """Refuse what is wrong for every model. Raises UsageError, TargetError."""
    if wanted.given.get("options", pipeline.Options()) != pipeline.Options():
        raise UsageError("--fit builds several artifacts whole: leave out --skip, --stop-after and "
                         "--dump")  # fmt: skip
    request.check_sizes(wanted.given.get("dims", ()), wanted.given.get("max_length"))
    if not wanted.targets:
        raise UsageError("name at least one --target")
    for target in wanted.targets:
        names = wanted.precisions or registry.target(target).precisions[:1]
        request.pairs([target], request.recipes(names))
        sizing.check_target(target)


def _known(wanted: Wanted, target: str) -> dict[str, Recipe | None]:
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


# --- sizes


def _predict(fitted: Fitted, source: Source, scratch: Path, stages: Stages) -> None:
    """Fill in the candidates, with their sizes. Raises GateMissed where a target has none that
    fits."""
    wanted, given, limit = fitted.wanted, fitted.wanted.given, fitted.wanted.limit
    program = _program(source, wanted, stages)
    length, corpus = given.get("max_length"), given.get("vocabulary")
    asked = given.get("scripts", ())
    scripts = characters.canonical(asked) if asked else ()
    path = None if corpus is None else expanded(str(corpus))
    planned = cutting.plan(program, scripts, path, stages)
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
        if not wanted.precisions and not _whole(fitted, target, limit):
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
    for name, one in _known(wanted, target).items():
        try:
            found.append(Candidate(target, name, one, sizer(target, name, one)))
        except (TargetError, UsageError) as error:
            if wanted.precisions:
                raise
            refusal = error
    if not found and refusal is not None:
        raise refusal
    return found


def _whole(fitted: Fitted, target: str, limit: int) -> bool:
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
    except UsageError as error:
        return f"{said}; its vocabulary cannot be cut: {error}"
    assert planned is not None
    cut = sizer.with_cut(planned.cut)
    cuts = ", ".join(f"{shown(cut(target, *pair).bytes)} MB" for target, pair in missed.items())
    return f"{said}; with --scripts {SCRIPTS} it would be {cuts}"


# --- measurements


def _measure(fitted: Fitted, target: str, scratch: Path, judges: Judges, stages: Stages) -> None:
    """Build the candidates of a target that are worth it, and measure those that pass."""
    wanted, limit = fitted.wanted, fitted.wanted.limit
    own = [one for one in fitted.candidates if one.target == target]
    for one in own:
        one.state = (
            "too large" if one.size.bytes > limit else "not built: others have tighter gates"
        )
    fits = [one for one in own if one.size.bytes <= limit]
    known = [one for one in fits if one.name != wanted.name]
    known.sort(key=lambda one: (GATES[one.gate].worst, -one.size.bytes))
    if not wanted.precisions:
        known = known[: 1 if _whole(fitted, target, limit) else MEASURED]
    tried = [*known, *(one for one in fits if one.name == wanted.name)]
    place = scratch / f"built-{target}"
    results = _built(fitted, target, tried, place, stages)
    for one in tried:
        one.result = results.get(one.name)
        if one.result is None:
            one.state = "could not be built"
            continue
        one.true = one.size.of(one.result.path)
        if not one.result.passed:
            one.state = "missed its gate"
        elif one.true > limit:
            one.state = "too large"
        else:
            with stages(f"retrieval {target}-{one.name}"):
                try:
                    one.loss = retrieving.loss_of(one.result.bundle, judges, stages)
                    one.state = "loses more"
                except Unrankable as error:
                    one.state = f"its embeddings cannot be ranked: {error}"


def _built(
    fitted: Fitted, target: str, tried: Sequence[Candidate], place: Path, stages: Stages
) -> dict[str, Result]:
    """Export some candidates of a target, and return the results by name. Raises the error of an
    export that builds none."""
    named: list[str] = []
    for one in tried:
        named.append(one.name)
        if one.recipe is not None and recipes.shipped().get(one.name) != one.recipe:
            file = place.parent / f"{one.name}.toml"
            trials.write(file, to_toml(one.recipe))
            named[-1] = str(file)
    wanted = fitted.wanted
    try:
        done = exporting.export(
            wanted.model, [target], named, place, listener=stages.listener, **wanted.given
        )
    except GoldfoldError as error:
        if not error.results:
            raise
        done = list(error.results)
    return {one.bundle.manifest.precision: one for one in done}


def _choose(fitted: Fitted, target: str, limit: int) -> None:
    """Mark the candidate of least upper bound. Raises GateMissed where none passed its gate."""
    own = [one for one in fitted.candidates if one.target == target]
    able = [one for one in own if one.loss is not None]
    if not able:
        tried = "; ".join(f"{one.name}: {one.state}" for one in own if one.size.bytes <= limit)
        raise GateMissed(
            f"--fit {fitted.wanted.text}: nothing that fits can be had for {target} ({tried})"
        )
    best = min(able, key=lambda one: (one.upper, one.true or 0))
    best.state = "chosen"


def _published(result: Result, out: Path) -> Result:
    path = bundle.publish(result.path, out, result.bundle.name, True)
    return replace(result, path=path, bundle=replace(result.bundle, path=path))
