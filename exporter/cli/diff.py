"""`goldfold diff`: the differences between two artifacts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.cli.flags import AsJson

_MOST = 40


def diff(
    a: Annotated[Path, typer.Argument(help="An artifact folder.")],
    b: Annotated[Path, typer.Argument(help="Another artifact folder.")],
    everything: Annotated[
        bool, typer.Option("--all", help=f"Print all differences, not the first {_MOST} per kind.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the differences between two artifacts. Exit code 0 if there are none, 1 otherwise."""
    from goldfold.exporter.artifact.diff import differences

    found = differences(a, b)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        console = open_console()
        for kind in dict.fromkeys(one.kind for one in found):
            own = [one for one in found if one.kind == kind]
            for one in own if everything else own[:_MOST]:
                console.print(Text(str(one)), soft_wrap=True)
            if len(own) > _MOST and not everything:
                console.print(Text(f"and {len(own) - _MOST} more of kind {kind}; --all shows them"))
        if not found:
            console.print(Text("equal: every field of the manifest, and every file to the byte"))
    if found:
        raise typer.Exit(1)
