"""`goldfold verify`: artifacts are unchanged, and still pass their gates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.cli.console import listening, warn
from goldfold.exporter.cli.flags import (
    AsJson,
    Count,
    JudgeToo,
    Quiet,
    RequireRun,
    Threads,
    Trust,
    Unseen,
)
from goldfold.exporter.cli.results import verified
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
    judging = Judging(asked.judge, asked.pairs, asked.model, asked.trust_remote_code, asked.unseen)
    judging.check()
    with listening(asked.quiet or asked.as_json) as listener:
        found = several.verify_all(
            folders, judging, signed, threads=asked.threads, listener=listener, log=warn
        )
    verified(found, asked.as_json, asked.require_run)
