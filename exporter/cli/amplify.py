"""`goldfold amplify`: where a model amplifies rounding errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.flags import AsJson, Model, NoCache, Quiet, Route, Trust
from goldfold.exporter.errors import GateMissed

if TYPE_CHECKING:
    from goldfold.exporter.diagnose.amplification import Place, TextAmplification


@dataclass(frozen=True)
class AmplifyFlags:
    """The options of `goldfold amplify`."""

    text: Annotated[
        list[str] | None, typer.Option(help="A text, its prompt included; repeatable.")
    ] = None
    golden: Annotated[
        list[str] | None, typer.Option(help="A golden text by its id; repeatable.")
    ] = None
    top: Annotated[int, typer.Option(min=1, help="Places to show for a text.")] = 10
    precision: Annotated[
        str, typer.Option(help="The recipe whose gate is held against the result.")
    ] = "int8"
    route: Route = None
    trust_remote_code: Trust = False
    no_cache: NoCache = False
    as_json: AsJson = False
    quiet: Quiet = False


def amplify(model: Model, asked: AmplifyFlags) -> None:
    """Show where MODEL amplifies errors of rounding: map, layer, token, channel, attention head.

    Takes a minute for a text of 25 tokens on EmbeddingGemma-300M. Exit code 1 if every text
    amplifies the rounding of activations to 8 bits beyond the gate.
    """
    from goldfold.exporter.driver.amplifying import amplify as measured

    with listening(asked.quiet) as listener:
        done = measured(
            model,
            asked.text or (),
            asked.golden or (),
            precision=asked.precision,
            top=asked.top,
            listener=listener,
            trust_remote_code=asked.trust_remote_code,
            route=asked.route,
            cache=not asked.no_cache,
        )
    if asked.as_json:
        print(done.found.to_json(), end="")
    else:
        for text in done.texts:
            _show(text, done.tokens[text.id])
    if done.hopeless is not None:
        raise GateMissed(done.hopeless)


def _show(text: TextAmplification, tokens: tuple[str, ...]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=f"{text.id}: {text.tokens} tokens, gain {text.gain:.3g}; 1−cos of activations in 8 "
        f"bits a row {text.predicted:.1e} by derivatives, {text.measured:.1e} rounded",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("place", "token"):
        table.add_column(heading)
    for heading in ("angle", "gain", "error", "bend"):
        table.add_column(heading, justify="right")
    for heading in ("largest channel", "through"):
        table.add_column(heading)
    for place in text.places:
        at = place.kind if place.kind in ("table", "head") else f"{place.kind} {place.depth}"
        table.add_row(
            at,
            "" if place.token is None else f"{place.token} {tokens[place.token]!r}",
            f"{place.angle:.1e}",
            f"{place.gain:.2g}",
            f"{100 * place.size:.1f} %",
            f"{place.bend:.2f}",
            f"{place.channel}, {place.reach:.0f} × the mean",
            _route(place, tokens),
        )
    open_console().print(table)


def _route(place: Place, tokens: tuple[str, ...]) -> str:
    route = place.route
    if route is None:
        return ""
    said = f"head {route.head} ({100 * route.share:.0f} %) of {tokens[route.reader]!r}"
    if route.margin is not None:
        said += f", scores {route.margin:.1f} apart"
    return said
