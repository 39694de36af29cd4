"""`goldfold verify`: artifacts are unchanged, and still pass their gates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.cli.console import listening, warn
from goldfold.exporter.cli.flags import (
    AsJson,
    Column,
    Count,
    JudgeToo,
    Quiet,
    RequireRun,
    Threads,
    Trust,
    Unseen,
)
from goldfold.exporter.cli.results import verified
from goldfold.exporter.errors import UsageError
from goldfold.golden.judging.pairs import LEAST


@dataclass(frozen=True)
class VerifyFlags:
    """The options of `goldfold verify`."""

    signature: Annotated[
        Path | None, typer.Option(help="First check this signature of the one artifact.")
    ] = None
    public_key: Annotated[
        Path | None, typer.Option(help="Public key of the signature, in PEM.")
    ] = None
    judge: JudgeToo = False
    pairs: Count = LEAST
    unseen: Unseen = 0
    model: Annotated[
        str | None,
        typer.Option(help="Source to compare with; --unseen needs it, --judge may."),
    ] = None
    texts: Annotated[
        list[str] | None,
        typer.Option(
            help="File of private texts of the export, which are run again; FILE:query as there."
            " Repeatable."
        ),
    ] = None
    column: Column = None
    places: Annotated[
        list[str],
        typer.Option(
            "--in", help="Verify in another program: node or chromium. May be given twice."
        ),
    ] = field(default_factory=list)
    threads: Threads = None
    trust_remote_code: Trust = False
    require_run: RequireRun = False
    quiet: Quiet = False
    as_json: AsJson = False


def verify(
    folders: Annotated[list[Path], typer.Argument(help="Artifact folders, or a folder of them.")],
    asked: VerifyFlags,
) -> None:
    """Check every digest of an artifact, and run its goldens again."""
    from goldfold.exporter.verification import several
    from goldfold.exporter.verification.several import Judging

    signed = several.check_signature(folders, asked.signature, asked.public_key)
    judging = Judging(
        asked.judge,
        asked.pairs,
        asked.model,
        asked.trust_remote_code,
        asked.unseen,
        asked.texts or (),
        asked.column,
    )
    judging.check()
    if asked.places:
        _verify_in(folders, asked, signed)
        return
    with listening(asked.quiet or asked.as_json) as listener:
        found = several.verify_all(
            folders, judging, signed, threads=asked.threads, listener=listener, log=warn
        )
    verified(found, asked.as_json, asked.require_run)


def _verify_in(folders: list[Path], asked: VerifyFlags, signed: str | None) -> None:
    """Run the goldens in other programs; verdict.json stays as it is."""
    from goldfold.exporter.cli.elsewhere_results import ran_elsewhere
    from goldfold.exporter.verification.elsewhere import verify_in

    if asked.judge or asked.unseen or asked.model is not None or asked.texts:
        raise UsageError(
            "--in runs the goldens alone; leave --judge, --unseen, --model and --texts out"
        )
    with listening(asked.quiet or asked.as_json) as listener:
        found = verify_in(
            folders, asked.places, threads=asked.threads, signed=signed, listener=listener
        )
    ran_elsewhere(found, asked.as_json, asked.require_run)
