"""`goldfold push`: artifacts in a repository of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.errors import UsageError


@dataclass(frozen=True)
class PushFlags:
    """The options of `goldfold push`."""

    revision: Annotated[
        str | None, typer.Option(help="Branch to push to, made where there is none; main.")
    ] = None
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the source model, for the card.")
    ] = None
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public",
            help="Visibility of a new repository; by default as the hub has it: public, or as the"
            " organisation has set.",
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the files and the card; send nothing.")
    ] = False


def push(
    places: Annotated[
        list[str],
        typer.Argument(help="Artifact folders, then the repository.", metavar="ARTIFACT... REPO"),
    ],
    asked: PushFlags,
) -> None:
    """Push artifacts to the hub, each in a folder of its own, with a card above them.

    Every digest is checked first, and an artifact that missed its gate is refused. All is one
    commit.
    """
    from goldfold.exporter.artifact.push import prepare, send

    *folders, repository = places
    if not folders:
        raise UsageError("name at least one artifact, and then the repository, as org/name")
    upload = prepare(
        [Path(folder) for folder in folders],
        repository,
        base=asked.base_model,
        revision=asked.revision,
        message=asked.message,
        private=asked.private,
    )
    console = open_console()
    if asked.dry_run:
        for key, file in upload.files.items():
            console.print(Text(f"{key}  {file.stat().st_size:,} bytes"), soft_wrap=True)
        console.print(Text(upload.card))
        return
    console.print(Text(send(upload)), soft_wrap=True)
