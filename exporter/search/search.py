"""The search for a recipe estimates the error of each group at each option, chooses the cheapest
recipe that should be within the budget, measures it, and repeats with the corrected estimate.

1−cos is half the square of the error, and errors of different groups are independent: 1−cos of a
text is therefore estimated as the sum of each group's 1−cos alone. Where a measurement differs, the
estimate's rows are scaled by the measured over the estimated value (`Calls.learn`), and the next
choice uses the scaled rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.quantize.recipe import Choice, Recipe
from goldfold.exporter.quantize.texts import Own
from goldfold.exporter.search import assign, groups, own_sets, testbed, timing, trials
from goldfold.exporter.search.budget import Budget
from goldfold.exporter.search.groups import Group, Objective
from goldfold.exporter.search.timing import Stopwatch, Timed
from goldfold.exporter.search.trials import Runner, Tried
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.verification.goldens import origin_of, ours

_ROUNDS = 30
"""The most joint measurements. Every one that misses raises the estimate by _HASTE more than
needed, doubled each time, so that far fewer searches end in floating point everywhere."""
_HASTE = 0.02
_LOOSEN = 4
"""Measurements after the first one within the budget, in search of a cheaper recipe."""
_FRONT = (1 / 16, 1 / 4, 4.0)
"""Further budgets that are tried, as shares of the requested one: they show the cost of a little
more quality, and the saving of a little less."""
_FLOOR = 1e-3
"""The share of the budget below which a ratio of two shares has no meaning."""
_SMALL = 1e-4
"""Milliseconds per megabyte where the objective is speed: of equally fast recipes, the smaller."""


@dataclass(frozen=True)
class Probe:
    """One group alone at one option."""

    group: Group
    choice: Choice
    tried: Tried


@dataclass
class Step:
    """One joint measurement."""

    chosen: tuple[Choice, ...]
    recipe: Recipe
    estimate: np.ndarray
    """f64 [texts]: the sum of the groups' errors."""
    tried: Tried
    bytes: int
    """Bytes of weights: integers, scales, and the rest in f32."""
    cost: float
    """The estimated objective."""
    strain: float
    """The used share of the budget; above 1 the recipe is not within it."""
    share: float = 1.0
    """The share of the budget that the choice was made for."""
    timed: Timed | None = None


@dataclass
class Found:
    """Everything that a search measured."""

    model: str
    target: str
    objective: Objective
    budget: Budget
    groups: list[Group]
    probes: list[Probe]
    floating: Timed | None
    """The program in floating point on the target; None where it is not measured."""
    floating_bytes: int
    steps: list[Step] = field(default_factory=list)
    best: Step | None = None
    untimed: str | None = None
    """The reason why no trial was timed."""
    ran: int = 0
    """Trials that were run; the others were read."""
    texts: int = 0
    own: tuple[str, ...] = ()
    """The user's own texts, a sentence for each set."""
    seconds: float = 0.0

    def failure(self) -> str:
        """The reason why there is no best step, in one sentence."""
        holding = [step.timed.total for step in self.steps if step.strain <= 1 and step.timed]
        if holding and self.floating is not None:
            return (
                f"nothing found that holds {self.budget} is faster than floating point on "
                f"{self.target}: {min(holding):.1f} ms at best, against {self.floating.total:.1f}"
            )
        tried = [(f"joint trial {n}", step.tried) for n, step in enumerate(self.steps, start=1)]
        tried += [(f"{groups.word(p.choice)} for {p.group.name} alone", p.tried)
                  for p in self.probes]  # fmt: skip
        if not tried:
            return f"{self.target} takes no integers that fit {self.model}"
        what, near = min(tried, key=lambda pair: self.budget.strain(pair[1].array))
        return (
            f"no recipe found holds {self.budget}; the nearest, {what}, has worst_cos "
            f"{_cosine(near.array.max())} and mean_cos {_cosine(near.array.mean())}"
        )


@dataclass
class Calls:
    """The estimate: loads and costs of every option of every group."""

    budget: Budget
    errors: list[np.ndarray]
    """f64 [options, texts] per group."""
    costs: list[np.ndarray]
    ratio: np.ndarray | float = 1.0
    """The measured over the estimated value, by row of the budget."""
    haste: float = _HASTE
    taught: bool = False

    def choose(self, share: float = 1.0) -> tuple[int, ...] | None:
        """The cheapest choice that should be within this share of the budget."""
        scale = self.ratio / share
        loads = [np.stack([self.budget.loads(row) * scale for row in rows]) for rows in self.errors]
        return assign.cheapest(self.costs, loads)

    def estimate(self, picked: Sequence[int]) -> np.ndarray:
        return np.sum([rows[o] for rows, o in zip(self.errors, picked, strict=True)], axis=0)

    def learn(self, picked: Sequence[int], measured: np.ndarray) -> None:
        """Scale the rows by the measured errors. The first measurement may lower the estimate;
        later ones only raise it. A measurement over the budget puts its own choice over the budget
        as well, so no choice is made twice."""
        estimated = self.budget.loads(self.estimate(picked))
        real = self.budget.loads(measured)
        seen = (real + _FLOOR) / (estimated + _FLOOR)
        self.ratio = np.maximum(self.ratio, seen) if self.taught else seen
        self.taught = True
        if real.max() > 1:
            self.ratio = self.ratio * (1 + self.haste)
            self.haste *= 2


def _cosine(error: float) -> str:
    """1 − error, with enough digits to differ from 1."""
    return f"{1 - error:.{max(6, 2 - int(np.floor(np.log10(max(error, 1e-12)))))}f}"


@dataclass(frozen=True)
class Wanted:
    """The request for a search."""

    model: str
    budget: Budget
    objective: Objective
    """"size" counts bytes of weights; "speed" counts milliseconds on `target`, which must then run
    on this machine."""
    name: str
    """The recipe's name."""
    target: str = "openvino"
    max_length: int | None = None
    """The most tokens of a text; the model's own number if None."""
    trust_remote_code: bool = False
    route: str | None = None
    calibration: tuple[Own, ...] = ()
    """The user's own calibration texts; empty for the built-in ones."""
    tuning: tuple[Own, ...] = ()
    """Likewise the texts on which recipes are compared."""


@ours()
def search(
    wanted: Wanted, state: Path, *, jobs: int = 1, listener: Listener | None = None
) -> Found:
    """Find the cheapest recipe that is within a budget on the tuning texts.

    Args:
        state: a folder for results; a search that was killed resumes from it.
        jobs: processes that run trials side by side.

    Returns:
        All measurements; `best` is None if no recipe is within the budget, or none gains anything.

    Raises:
        GoldfoldError of the kind that says whose fault it is.
    """
    model, target, objective = wanted.model, wanted.target, wanted.objective
    budget, name = wanted.budget, wanted.name
    chosen_target = registry.target(target)
    if not chosen_target.quantizes:
        raise UsageError(f"target {target} takes no integers: there is nothing to search for")
    away = chosen_target.unavailable() or chosen_target.cannot_run()
    if objective == "speed":
        registry.offered(target, name, ("int8",))
        if away is not None:
            raise UsageError(f"--objective speed measures on {target}: {away}")
    stages = Stages(listener)
    folder = _testbed(wanted, state, stages)
    base = trials.opened(folder)
    found = groups.find(base.sites(), objective, chosen_target.quantizes)
    if not found:
        raise UsageError(f"{model} has no matrix that could be integers")
    runner = Runner(folder, jobs)
    watch = None if away is not None else Stopwatch(target, base, stages)
    costs, floating = _costs(found, objective, watch, stages)
    with stages("sensitivity"):
        probes = probe(found, objective, runner, stages)
        stages.note(f"{len(probes)} trials, {runner.ran} of them run now")
    errors = errors_of(found, probes)
    seen = Found(
        base.program.contract.model, target, objective, budget, found, probes, floating,
        sum(group.bytes(groups.FLOAT) for group in found), untimed=away,
        texts=len(base.texts),
    )  # fmt: skip
    _rounds(seen, Calls(budget, errors, costs), name, runner, watch, stages)
    seen.own = own_sets.said(wanted.calibration, wanted.tuning)
    seen.best = _best(seen)
    seen.ran = runner.ran
    seen.seconds = sum(one.seconds for one in stages.timings)
    return seen


def _testbed(wanted: Wanted, state: Path, stages: Stages) -> Path:
    """The folder that all trials use: an earlier one if it exists, or else a new one."""
    with stages("open"):
        source = open_model(
            wanted.model, trust_remote_code=wanted.trust_remote_code, route=wanted.route
        )
        max_length = wanted.max_length
        gains = groups.recipe("gains", (), (), wanted.objective, False)
        model = origin_of(source).fingerprint + source.route
        own = testbed.Sets(wanted.calibration, wanted.tuning)
        folder = state.resolve() / testbed.key_of(model, gains, max_length, own)
        known = folder.is_dir()
        if known:
            stages.note(f"{source.name}, known from before")
        else:
            bundle.check_writable(state, "--state")
            source = ready(source, stages, open_cache())
    if not known:
        testbed.make(source, gains, folder, stages, max_length, own)
    return folder


def _costs(
    found: Sequence[Group], objective: Objective, watch: Stopwatch | None, stages: Stages
) -> tuple[list[np.ndarray], Timed | None]:
    """The cost of each option of each group: bytes, or estimated milliseconds."""
    sizes = [np.array([group.bytes(c) for c in group.options], np.float64) for group in found]
    if objective == "size" or watch is None:
        return sizes, None
    options = list(dict.fromkeys(c for group in found for c in group.options if c.bits))
    with stages(f"time on {watch.target}"):
        floating = watch(_all(found, groups.FLOAT, objective))
        uniform = []
        for done, option in enumerate(options, start=1):
            uniform.append(watch(_all(found, option, objective)).total)
            stages.step(done, len(options))
        said = zip(options, uniform, strict=True)
        stages.note(
            f"float {floating.total:.1f} ms, "
            + ", ".join(f"{groups.word(option)} {ms:.1f}" for option, ms in said)
        )
    work = sum(group.products for group in found) or 1
    shares = [group.products / work for group in found]
    by_option = timing.estimates(floating.total, uniform, shares)
    costs = []
    for group, size, row in zip(found, sizes, by_option, strict=True):
        times = [row[0], *(row[1 + options.index(c)] for c in group.options if c.bits)]
        costs.append(np.array(times) + _SMALL * size / 1e6)
    return costs, floating


def _all(found: Sequence[Group], option: Choice, objective: Objective) -> Recipe:
    """The recipe with every group under one option, where the group has it."""
    chosen = [option if option in group.options else groups.FLOAT for group in found]
    return groups.recipe("uniform", found, chosen, objective, False)


def probe(
    found: Sequence[Group], objective: Objective, runner: Runner, stages: Stages
) -> list[Probe]:
    """Every group alone at every option, the rest in floating point."""
    asked = [(group, c) for group in found for c in group.options if c.bits]
    recipes = [
        groups.recipe(
            "probe", found, [c if one is group else groups.FLOAT for one in found], objective, True
        )
        for group, c in asked
    ]
    tried = runner(recipes, stages.step)
    return [Probe(group, c, one) for (group, c), one in zip(asked, tried, strict=True)]


def errors_of(found: Sequence[Group], probes: Sequence[Probe]) -> list[np.ndarray]:
    """f64 [options, texts] per group: 1−cos of each option alone, and zeros for floating point."""
    texts = len(probes[0].tried.errors) if probes else 0
    return [
        np.stack([np.zeros(texts), *(p.tried.array for p in probes if p.group is group)])
        for group in found
    ]


def _rounds(
    seen: Found,
    calls: Calls,
    name: str,
    runner: Runner,
    watch: Stopwatch | None,
    stages: Stages,
) -> None:
    """Choose, measure and learn, until there is no cheaper choice or no group to round."""
    before: set[tuple[int, ...]] = set()
    held = 0

    def measure(picked: tuple[int, ...], share: float = 1.0) -> Step:
        chosen = tuple(g.options[o] for g, o in zip(seen.groups, picked, strict=True))
        summary = f"found by a search for {seen.objective}: {seen.budget}"
        recipe = groups.recipe(name, seen.groups, chosen, seen.objective, True, summary)
        tried = runner([recipe])[0]
        size = sum(group.bytes(c) for group, c in zip(seen.groups, chosen, strict=True))
        cost, strain = assign.cost(calls.costs, picked), seen.budget.strain(tried.array)
        return Step(chosen, recipe, calls.estimate(picked), tried, size, cost, strain, share)

    with stages("joint trials"):
        for number in range(1, _ROUNDS + 1):
            picked = calls.choose()
            if picked is None or picked in before or not any(picked) or held > _LOOSEN:
                break
            before.add(picked)
            step = measure(picked)
            held += step.strain <= 1
            seen.steps.append(step)
            calls.learn(picked, step.tried.array)
            stages.detail(f"joint trial {number}: {step.strain:.2f} of the budget")
        alone = None if held else _alone(seen, calls)
        if alone is not None:
            seen.steps.append(measure(alone))
        for share in _FRONT:
            picked = calls.choose(share)
            if picked is not None and picked not in before and any(picked):
                before.add(picked)
                seen.steps.append(measure(picked, share))
        holding = sum(step.strain <= 1 for step in seen.steps)
        stages.note(f"{len(seen.steps)}, {holding} of them within the budget")
    if watch is None:
        return
    with stages(f"time on {seen.target}"):
        if seen.floating is None:
            seen.floating = watch(_all(seen.groups, groups.FLOAT, seen.objective))
        for done, step in enumerate(seen.steps, start=1):
            step.timed = watch(step.recipe)
            stages.step(done, len(seen.steps))


def _alone(seen: Found, calls: Calls) -> tuple[int, ...] | None:
    """The cheapest single group that is within the budget alone, as a choice, for a search where no
    choice for all groups is. Its errors were measured already."""
    found: list[tuple[float, tuple[int, ...]]] = []
    floating = assign.cost(calls.costs, (0,) * len(seen.groups))
    for probe in seen.probes:
        picked = tuple(
            group.options.index(probe.choice) if group is probe.group else 0
            for group in seen.groups
        )
        cost = assign.cost(calls.costs, picked)
        if seen.budget.holds(probe.tried.array) and cost < floating:
            found.append((cost, picked))
    return min(found, default=(0.0, None))[1]


def _best(seen: Found) -> Step | None:
    """The cheapest step within the budget, as measured."""
    holding = [step for step in seen.steps if step.strain <= 1]
    if seen.objective == "size":
        return min(holding, key=lambda step: (step.bytes, step.strain), default=None)
    timed = [(step.timed.total, step) for step in holding if step.timed is not None]
    best = min(timed, key=lambda pair: pair[0], default=None)
    if best is None or seen.floating is None or best[0] >= seen.floating.total:
        return None
    return best[1]
