"""`goldfold quantize`: the search for a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console, warn
from goldfold.exporter.cli.flags import Column, MaxLength, Model, Quiet, Route, Trust
from goldfold.exporter.errors import UsageError


@dataclass(frozen=True)
class QuantizeFlags:
    """The options of `goldfold quantize`."""

    budget: Annotated[
        list[str] | None,
        typer.Option(help="worst_cos>=0.995 or mean_cos>=0.999; repeatable."),
    ] = None
    objective: Annotated[
        str, typer.Option(help="size (of the weights) or speed (measured on the target).")
    ] = "size"
    out: Annotated[
        Path, typer.Option(help="Recipe to write; a plot and all trials go beside it.")
    ] = Path("recipe.toml")
    target: Annotated[str, typer.Option(help="Target of the recipe.")] = "openvino"
    jobs: Annotated[int, typer.Option(min=1, help="Parallel trials, one process each.")] = 1
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for resuming a search; beside --out by default."),
    ] = None
    max_length: MaxLength = None
    calibration_texts: Annotated[
        list[str] | None,
        typer.Option(help="File of texts to calibrate by instead of the built-in; repeatable."),
    ] = None
    tuning_texts: Annotated[
        list[str] | None,
        typer.Option(help="File of texts to compare recipes on; likewise, and others than those."),
    ] = None
    column: Column = None
    route: Route = None
    trust_remote_code: Trust = False
    quiet: Quiet = False


def quantize(model: Model, asked: QuantizeFlags) -> None:
    """Search for the cheapest recipe that meets a quality budget on the tuning texts.

    A search that was stopped continues when it is started again. Exit code 1 if no recipe meets the
    budget.
    """
    from goldfold.exporter.search import outcome
    from goldfold.exporter.search.budget import parse
    from goldfold.exporter.search.own_sets import own_sets
    from goldfold.exporter.search.search import Wanted, search

    bounds = parse(asked.budget or [])
    if asked.objective not in ("size", "speed"):
        raise UsageError(f"--objective {asked.objective!r}: there are size and speed")
    outcome.check(asked.out)
    with listening(asked.quiet) as listener:
        wanted = Wanted(
            model,
            bounds,
            asked.objective,  # type: ignore[arg-type]
            asked.out.stem,
            asked.target,
            asked.max_length,
            asked.trust_remote_code,
            asked.route,
            *own_sets(asked.calibration_texts or (), asked.tuning_texts or (), asked.column),
        )
        state = asked.state or asked.out.with_suffix(".search")
        found = search(wanted, state, jobs=asked.jobs, listener=listener)
    written = outcome.write(found, asked.out)
    if not asked.quiet:
        log = open_console(stderr=True)
        if found.untimed is not None:
            log.print(Text(f"not timed: {found.untimed}"), soft_wrap=True)
        log.print(outcome.sensitivity(found))
        log.print(outcome.path(found))
    best = outcome.best(found, asked.out, written)
    if (warning := outcome.warning(found)) is not None:
        warn(warning)
    console = open_console()
    console.print(outcome.assignment(found, best))
    for file in written:
        console.print(Text(str(file)), soft_wrap=True)
