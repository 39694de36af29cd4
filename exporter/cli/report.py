"""`goldfold report`: the report on a folder of artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.flags import Quiet


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of artifacts, or artifact folders.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write into; by default the first.")
    ] = None,
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Time all artifacts that run here in turn first."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write report.html, report.json and junit.xml about artifacts. Only --speed measures."""
    from goldfold.exporter.report import write
    from goldfold.golden.gate import WORDS
    from goldfold.golden.report import STYLES

    if speed:
        _time(folders, quiet)
    found, page = write(folders, out)
    verdict = (WORDS[found.status], STYLES[found.status])
    said = f" {found.count('passed')} of {len(found.artifacts)} artifacts passed"
    said += (
        f", {proved} proved by what stands for them" if (proved := found.count("proved")) else ""
    )
    line = Text.assemble(verdict, f"{said}: {page}")
    open_console().print(line, soft_wrap=True)


def _time(folders: list[Path], quiet: bool) -> None:
    from goldfold.exporter.errors import TargetError
    from goldfold.exporter.progress import Stages
    from goldfold.exporter.report.collect import artifacts_in
    from goldfold.exporter.report.latency import measure

    paths = artifacts_in(folders)
    with listening(quiet) as listener:
        timed, left = measure(paths, Stages(listener))
    for name, why in left.items():
        if not quiet:
            open_console(stderr=True).print(f"not timed: {name}: {why}", soft_wrap=True)
    if not timed:
        raise TargetError(
            "no artifact here can be timed on this machine: " + "; ".join(left.values())
        )
