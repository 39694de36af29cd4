"""The outcome of a search: the recipe, the plot, all trials as JSON, and the tables to print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldfold.exporter.errors import GateMissed, OutputError, UsageError
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.quantize.recipe import Choice, Recipe
from goldfold.exporter.registry import FLOATS
from goldfold.exporter.report import plots
from goldfold.exporter.report.plots import Plot
from goldfold.exporter.search import trials
from goldfold.exporter.search.groups import word
from goldfold.exporter.search.search import Found, Step
from goldfold.exporter.search.size_quality import Candidate, front
from goldfold.exporter.search.timing import SHAPES, Timed
from goldfold.exporter.system import names
from goldfold.exporter.system.writing import check_file
from goldfold.golden.gate import GATES

FORMAT = "goldfold.search/1"


def check(out: Path) -> None:
    """Refuse, before any work, a path that no recipe can have. Raises UsageError, OutputError."""
    if out.suffix != ".toml":
        raise UsageError(f"--out {out}: a recipe's file ends in .toml")
    if not names.is_name(out.stem):
        raise UsageError(
            f"--out {out}: {out.stem!r} is no name for a recipe: letters, digits, ._+-"
        )
    if out.stem in FLOATS or out.stem in recipes.shipped():
        raise UsageError(f"--out {out}: {out.stem} is the name of a precision; give another")
    if out.is_dir() or not out.parent.is_dir():
        what = "it is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise OutputError(f"cannot write {out}: {what}")
    check_file(out, "--out")


def to_toml(recipe: Recipe, comment: Sequence[str] = ()) -> str:
    """The text of a file that `goldfold.exporter.quantize.recipe.read` turns into `recipe` again,
    its name aside."""
    lines = [f"# {names.line(said)}" for said in comment]
    lines += [f"summary = {_text(recipe.summary)}", f"gains = {_text(recipe.gains)}"]
    lines += [f"alpha = {recipe.alpha}"] if recipe.alpha else []
    lines += [f"around = {_text(recipe.around)}"] if recipe.around != "fast" else []
    lines += [f"dynamic = {recipe.dynamic}"] if recipe.dynamic else []
    for name, choice in (("weights", recipe.weights), ("table", recipe.table)):
        lines += ["", f"[{name}]", *_choice(choice.plain())]
    for rule in recipe.rules:
        said = {k: v for k, v in rule.plain().items() if v is not None}
        optional = said.pop("optional")
        kinds, layers = said.pop("kinds"), said.pop("layers")
        ends = [(end, said.pop(end, None)) for end in ("first", "last")]
        lines += ["", "[[rule]]"]
        lines += [f"kinds = [{', '.join(map(_text, kinds))}]"] if kinds else []
        lines += [f"layers = {_text(layers)}"] if layers != "*" else []
        lines += [f"{end} = {layers}" for end, layers in ends if layers is not None]
        lines += ["optional = true"] if optional else []
        lines += _choice(said)
    return "\n".join(lines) + "\n"


def _choice(said: dict[str, Any]) -> list[str]:
    return [f"{k} = {json.dumps(v)}" for k, v in said.items()]


def _text(text: str) -> str:
    """A basic string of TOML, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=True)


def write(found: Found, out: Path) -> list[Path]:
    """Write the recipe, if one was found, and beside it the plot and the trials; returns the paths.
    Raises OutputError."""
    written = []
    if found.best is not None:
        comment = [
            f"goldfold quantize, objective {found.objective}: {found.budget} on {found.texts} "
            f"tuning texts of {found.model}",
            _said(found.best),
            *found.own,
        ]
        trials.write(out, to_toml(found.best.recipe, comment))
        written.append(out)
    pictures = pictures_of(found)
    if pictures:
        trials.write(out.with_suffix(".svg"), draw(pictures, found.model))
        written.append(out.with_suffix(".svg"))
    record = json.dumps(to_json(found), indent=1, ensure_ascii=False) + "\n"
    trials.write(out.with_suffix(".trials.json"), record)
    return [*written, out.with_suffix(".trials.json")]


def best(found: Found, out: Path, written: Sequence[Path]) -> Step:
    """The chosen step. Raises GateMissed, naming the file of all trials, if no step is within the
    budget."""
    if found.best is None:
        stale = f"; {out} is of an earlier search" if out.exists() else ""
        raise GateMissed(f"{found.failure()}; all trials: {written[-1]}{stale}")
    return found.best


def warning(found: Found) -> str | None:
    """A warning if the recipe's own gate, at an export, is tighter than the budget."""
    if found.best is None:
        return None
    gate, errors = GATES[found.best.recipe.gate], found.best.tried.array
    over = errors.max() > gate.worst or (gate.mean is not None and errors.mean() > gate.mean)
    if not over:
        return None
    mean = f" and mean {gate.mean:.0e}" if gate.mean is not None else ""
    return (
        f"an export of this recipe is held to the gate {found.best.recipe.gate} (worst 1−cos "
        f"{gate.worst:.0e}{mean}), which it misses on the tuning texts: ask for a tighter budget"
    )


def _said(step: Step) -> str:
    errors = step.tried.array
    timed = f", {step.timed.total:.1f} ms" if step.timed else ""
    return (
        f"measured: worst_cos {1 - errors.max():.6f}, mean_cos {1 - errors.mean():.6f}, "
        f"{step.bytes / 1e6:.1f} MB of weights{timed}"
    )


# --- tables


def sensitivity(found: Found) -> Table:
    """Worst and mean 1−cos of each group alone at each option."""
    options = list(dict.fromkeys(probe.choice for probe in found.probes))
    shown = Table(
        "group", "MB in f32", *map(word, options), box=SIMPLE_HEAD, pad_edge=False,
        title="1−cos of one group alone, worst / mean", title_justify="left",
    )  # fmt: skip
    for group in found.groups:
        cells = []
        for option in options:
            errors = next(
                (p.tried.array for p in found.probes if p.group is group and p.choice == option),
                None,
            )
            text = "" if errors is None else f"{errors.max():.0e} / {errors.mean():.0e}"
            cells.append(text)
        shown.add_row(group.name, f"{group.weights * 4 / 1e6:.1f}", *cells)
    return shown


def path(found: Found) -> Table:
    """The joint trials in order."""
    shown = Table(
        "trial", "weights", f"ms on {found.target}", "worst 1−cos", "estimated", "mean",
        "estimated", "of the budget", "", box=SIMPLE_HEAD, pad_edge=False,
        title=f"Joint trials: {found.budget}", title_justify="left",
    )  # fmt: skip
    if found.floating is not None:
        size, ms = f"{found.floating_bytes / 1e6:.1f} MB", f"{found.floating.total:.1f}"
        shown.add_row("float", size, ms, "0", "", "0", "", "0", "")
    for number, step in enumerate(found.steps, start=1):
        errors = step.tried.array
        shown.add_row(
            str(number),
            f"{step.bytes / 1e6:.1f} MB",
            f"{step.timed.total:.1f}" if step.timed else "",
            f"{errors.max():.1e}",
            f"{step.estimate.max():.1e}",
            f"{errors.mean():.1e}",
            f"{step.estimate.mean():.1e}",
            f"{step.strain:.2f}",
            _word(found, step),
        )
    return shown


def _word(found: Found, step: Step) -> str | Text:
    if step is found.best:
        return Text("chosen", "bold green")
    if step.share != 1:
        return f"for {step.share:g} of it"
    return "" if step.strain <= 1 else "misses"


def assignment(found: Found, step: Step) -> Table:
    """The choice of each group."""
    shown = Table("group", "gets", "MB", box=SIMPLE_HEAD, pad_edge=False)
    for group, choice in zip(found.groups, step.chosen, strict=True):
        shown.add_row(group.name, word(choice), f"{group.bytes(choice) / 1e6:.2f}")
    return shown


# --- the record


def to_json(found: Found) -> dict[str, Any]:
    """Every trial, with the errors of every text."""

    def named(chosen: Sequence[Choice]) -> dict[str, str]:
        return {g.name: word(c) for g, c in zip(found.groups, chosen, strict=True)}

    def timed(one: Timed | None) -> dict[str, Any] | None:
        return None if one is None else one.plain()

    return {
        "format": FORMAT,
        "model": found.model,
        "target": found.target,
        "objective": found.objective,
        "budget": {"worst": found.budget.worst, "mean": found.budget.mean},
        "texts": found.texts,
        "own_texts": found.own,
        "shapes": SHAPES,
        "float": {"bytes": found.floating_bytes, "timed": timed(found.floating)},
        "not_timed": found.untimed,
        "seconds": round(found.seconds, 1),
        "trials_run": found.ran,
        "sensitivity": [
            {
                "group": probe.group.name, "option": word(probe.choice),
                "bytes": probe.group.bytes(probe.choice), "seconds": probe.tried.seconds,
                "errors": probe.tried.errors,
            }
            for probe in found.probes
        ],
        "joint": [
            {
                "options": named(step.chosen), "bytes": step.bytes, "cost": step.cost,
                "strain": step.strain, "share": step.share, "estimated": step.estimate.tolist(),
                "errors": step.tried.errors, "seconds": step.tried.seconds,
                "timed": timed(step.timed), "recipe": step.recipe.plain(),
                "chosen": step is found.best,
            }
            for step in found.steps
        ],
    }  # fmt: skip


# --- the plots


def pictures_of(found: Found) -> list[Plot]:
    """Quality against size and, where it was measured, against time. Empty without trials."""
    if not found.steps:
        return []
    by_worst = found.budget.worst is not None
    limit = found.budget.worst if by_worst else found.budget.mean
    measure = "worst 1−cos" if by_worst else "mean 1−cos"
    key = (("chosen", "chosen"), ("holds", "within budget"), ("misses", "misses"))
    drawn = [
        front(
            f"{found.model}: size and quality",
            "weights",
            measure,
            [_point(found, step, step.bytes, by_worst) for step in found.steps],
            limit,
            key=key,
        )
    ]
    times = [(step, step.timed) for step in found.steps if step.timed is not None]
    if times:
        title = f"Speed on {found.target} and quality"
        points = [_point(found, step, timed.total, by_worst) for step, timed in times]
        if found.floating is not None:
            title += f"; float {found.floating.total:.0f} ms"
        axis = "milliseconds, " + " + ".join(f"{b} × {t}" for b, t in SHAPES) + " tokens"
        drawn.append(front(title, axis, measure, points, limit, lambda ms: f"{ms:g}", key))
    return drawn


def _point(found: Found, step: Step, x: float, by_worst: bool) -> Candidate:
    errors = step.tried.array
    style = "chosen" if step is found.best else "holds" if step.strain <= 1 else "misses"
    number = found.steps.index(step) + 1
    y = float(errors.max() if by_worst else errors.mean())
    return Candidate(x, y, style, f"trial {number}: {_said(step)}", str(number))


def draw(pictures: Sequence[Plot], title: str) -> str:
    """Plots side by side, as one SVG that needs no other file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: names.shown(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    template = environment.get_template("picture.svg.jinja")
    return template.render(plots=pictures, title=names.line(title), box=plots)
