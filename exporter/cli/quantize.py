"""The commands that are about quantization: `recipes`, and `quantize`, which searches for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.golden import MaxLength, Quiet, Trust
from goldfold.exporter.errors import GateMissed, UsageError
from goldfold.exporter.quantize.recipe import Choice, Recipe

if TYPE_CHECKING:
    from goldfold.exporter.search.search import Found


def recipes() -> None:
    """List the recipes that come with goldfold: what --precision can name besides fp32, fp16,
    bf16."""
    from goldfold.exporter.quantize import recipe
    from goldfold.golden.gate import GATES

    shown = Table(
        "recipe", "weights", "table", "activations", "gate: worst, mean 1−cos", "", box=SIMPLE_HEAD,
        pad_edge=False,
    )  # fmt: skip
    for name, one in recipe.shipped().items():
        gate = GATES[one.gate]
        shown.add_row(
            name, _bits(one.weights), _bits(one.table), _activations(one),
            f"{gate.worst:.0e}, {gate.mean:.0e}", one.summary,
        )  # fmt: skip
    open_console().print(shown)


def quantize(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(help="worst_cos>=0.995 or mean_cos>=0.999; repeatable."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="size, of the weights; speed, measured on the target.")
    ] = "size",
    out: Annotated[
        Path, typer.Option(help="The recipe to write; a picture and all trials go beside it.")
    ] = Path("recipe.toml"),
    target: Annotated[str, typer.Option(help="What it is for.")] = "openvino",
    jobs: Annotated[int, typer.Option(min=1, help="Trials side by side, a process each.")] = 1,
    state: Annotated[
        Path | None,
        typer.Option(help="Where work is kept, to go on from; beside --out by default."),
    ] = None,
    max_length: MaxLength = None,
    trust_remote_code: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Search for the cheapest recipe that holds a budget of quality on the tuning texts.

    A search that is stopped goes on where it was when it is started again. Exit code 1 if no recipe
    holds the budget.
    """
    from goldfold.exporter.search import outcome
    from goldfold.exporter.search.budget import parse
    from goldfold.exporter.search.search import search

    bounds = parse(budget or [])
    if objective not in ("size", "speed"):
        raise UsageError(f"--objective {objective!r}: there are size and speed")
    outcome.check(out)
    with listening(quiet) as listener:
        found = search(
            model,
            bounds,
            objective,  # type: ignore[arg-type]
            state or out.with_suffix(".search"),
            out.stem,
            target=target,
            jobs=jobs,
            max_length=max_length,
            trust_remote_code=trust_remote_code,
            listener=listener,
        )
    written = outcome.write(found, out)
    _show(found, written, out, quiet)


def _show(found: Found, written: list[Path], out: Path, quiet: bool) -> None:
    """The tables, or GateMissed if nothing was found."""
    from goldfold.exporter.search import outcome

    console, log = open_console(), open_console(stderr=True)
    if not quiet:
        if found.untimed is not None:
            log.print(Text(f"not timed: {found.untimed}"), soft_wrap=True)
        log.print(outcome.sensitivity(found))
        log.print(outcome.path(found))
    if found.best is None:
        stale = f"; {out} is of an earlier search" if out.exists() else ""
        raise GateMissed(f"{found.failure()}; all trials: {written[-1]}{stale}")
    warning = outcome.warning(found)
    if warning is not None:
        log.print(Text(f"warning: {warning}"), soft_wrap=True)
    console.print(outcome.assignment(found, found.best))
    for file in written:
        console.print(Text(str(file)), soft_wrap=True)


def _bits(choice: Choice) -> str:
    if not choice.bits:
        return "floating"
    return f"int{choice.bits}" + (f", blocks of {choice.block}" if choice.block else "")


def _activations(recipe: Recipe) -> str:
    if recipe.dynamic:
        return f"dynamic, {recipe.dynamic}"
    return "static" if "static" in recipe.needs else "floating"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(recipes)
    app.command()(quantize)
