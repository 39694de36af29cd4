"""`goldfold bisect`: the one application of a pass that breaks a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.flags import MaxLength, Model, NoCache, Route
from goldfold.exporter.errors import GateMissed


@dataclass(frozen=True)
class BisectFlags:
    """The options of `goldfold bisect`."""

    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32"
    limit: Annotated[
        float | None, typer.Option(help="Limit of 1−cos; by default the precision's gate.")
    ] = None
    max_length: MaxLength = None
    route: Route = None
    no_cache: NoCache = False
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q")] = False


def bisect(model: Model, asked: BisectFlags) -> None:
    """Find the one application of a pass after which MODEL misses its golden gate."""
    from goldfold.exporter.driver.bisect import search

    with listening(asked.quiet) as listener:
        culprit = search(
            model,
            asked.precision,
            asked.limit,
            max_length=asked.max_length,
            route=asked.route,
            trust_remote_code=asked.trust_remote_code,
            cache=not asked.no_cache,
            listener=listener,
        )
    if culprit is None:
        open_console().print(
            "no rewrite of the common and precision passes goes beyond the limit "
            "on the short golden texts, each alone"
        )
        return
    open_console().print(culprit.sentence(), markup=False, highlight=False)
    raise GateMissed(f"application {culprit.number} of {culprit.total} breaks the gate")
