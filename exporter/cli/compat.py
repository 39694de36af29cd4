"""`goldfold compat`: may the queries of one artifact search the index of another?"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.flags import Quiet, Threads
from goldfold.exporter.errors import GateMissed, UsageError

if TYPE_CHECKING:
    from goldfold.exporter.index.verdict import Compatibility

_KINDS = 12
"""Kinds of texts in the table, the worst first."""
_WORST = 3
"""Texts that are shown, where one drifts by more than rounding explains."""
_COLOURS = {"compatible": "green", "compatible with loss": "yellow", "not compatible": "red"}


@dataclass(frozen=True)
class CompatFlags:
    """The options of `goldfold compat`."""

    texts: Annotated[
        Path | None, typer.Option(help="File of texts, one a line; .jsonl: strings, or text.")
    ] = None
    index: Annotated[
        Path | None,
        typer.Option(help="A .npy file of an index's vectors, instead of OLD; needs --texts."),
    ] = None
    dims: Annotated[int | None, typer.Option(help="Size of the index, where OLD is cut.")] = None
    limit: Annotated[
        str, typer.Option(help="The loss of retrieval to allow, as 0.5%, in either direction.")
    ] = "1.5%"
    pairs: Annotated[
        int, typer.Option(help="Docstrings and functions to retrieve, without --texts.")
    ] = 1000
    count: Annotated[
        int, typer.Option(help="Drawn texts; the most of --texts, or of --index, to compare.")
    ] = 1000
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None
    threads: Threads = None
    quiet: Quiet = False


def compat(
    artifacts: Annotated[
        list[Path], typer.Argument(help="OLD and NEW; with --index, NEW alone.", metavar="OLD NEW")
    ],
    asked: CompatFlags,
) -> None:
    """Compare two artifacts: may NEW's queries search OLD's index?

    Exit code 0 for "compatible" and "compatible with loss", 1 for "not compatible".
    """
    from goldfold.exporter.index.compatibility import How
    from goldfold.exporter.index.compatibility import compat as compared
    from goldfold.exporter.system.writing import check_file, write_file

    wanted = 2 if asked.index is None else 1
    if len(artifacts) != wanted:
        names = "OLD and NEW" if wanted == 2 else "NEW alone, for --index stands for OLD"
        raise UsageError(f"{len(artifacts)} artifacts are given; give {names}")
    if asked.json_file is not None:
        check_file(asked.json_file, "--json")
    with listening(asked.quiet) as listener:
        found = compared(
            artifacts[0] if wanted == 2 else None,
            artifacts[-1],
            texts=asked.texts,
            index=asked.index,
            dims=asked.dims,
            limit=_share(asked.limit),
            how=How(asked.pairs, asked.count, asked.threads, listener),
        )
    if asked.json_file is not None:
        text = json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        write_file(asked.json_file, lambda file: file.write(text.encode()))
    _show(found)
    if not found.compatible:
        raise GateMissed(f"{found.new} and {found.old}: {found.sentence}")


def _show(found: Compatibility) -> None:
    console = open_console()
    losses = _table("OLD's index, searched by NEW", ("n", "OLD", "mixed", "loss", "at most"))
    for one in (*found.retrieval, *found.indexes):
        losses.add_row(
            one.name, str(one.count), f"{one.reference:.4f}", f"{one.artifact:.4f}",
            f"{one.loss:.2%}", f"{one.upper or 0.0:.2%}",
        )  # fmt: skip
    console.print(losses)
    drift = _table("drift", ("texts", "worst 1−cos", "mean", "find their own"))
    every = found.drift
    drift.add_row(
        "all texts", str(every.texts), f"{every.worst:.1e}", f"{every.mean:.1e}",
        f"{every.found:.0%} of {every.distinct}",
    )  # fmt: skip
    for kind in every.kinds[:_KINDS]:
        drift.add_row(
            kind.kind, str(kind.texts), f"{kind.worst:.1e}", f"{kind.mean:.1e}",
            f"{kind.found:.0%} of {kind.distinct}" if kind.distinct else "none alone",
        )  # fmt: skip
    console.print(drift)
    if len(every.kinds) > _KINDS:
        console.print(Text(f"and {len(every.kinds) - _KINDS} kinds below these"), soft_wrap=True)
    for one in found.worst[:_WORST]:
        if one.distance > found.allowed:
            where = f"drifts by {one.distance:.1e}: text {one.place}, {one.kind}: {one.text!r}"
            console.print(Text(where), soft_wrap=True)
    said = (
        ("texts", (found.texts,)), ("differs", found.differences), ("likely cause", found.causes),
        ("may be mixed", (found.mixable,)), ("note", found.notes),
    )  # fmt: skip
    for name, lines in said:
        for line in lines:
            console.print(Text.assemble((f"{name}: ", "bold"), line), soft_wrap=True)
    verdict, _, rest = found.sentence.partition(" at ")
    console.print(Text.assemble((verdict, _COLOURS[found.verdict]), f" at {rest}"), soft_wrap=True)


def _table(first: str, headings: tuple[str, ...]) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column(first)
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    return shown


def _share(text: str) -> float:
    """Returns a share: `0.5%` → 0.005, `0.005` → 0.005."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)", text.strip())
    if match is None or float(match[1]) / (100 if match[2] else 1) >= 1:
        raise UsageError(f"--limit {text!r} is no share such as 0.5%")
    return float(match[1]) / (100 if match[2] else 1)
