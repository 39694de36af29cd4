"""`goldfold judge`: the losses in retrieval that an artifact's errors cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console, warn
from goldfold.exporter.cli.flags import Quiet, Threads, Trust
from goldfold.exporter.errors import OutputError, UsageError
from goldfold.exporter.system.files import expanded
from goldfold.golden.judging.pairs import LEAST


@dataclass(frozen=True)
class JudgeFlags:
    """The options of `goldfold judge`."""

    model: Annotated[
        str | None,
        typer.Option(help="Source model, needed until its fp32 embeddings are cached."),
    ] = None
    pairs: Annotated[
        str,
        typer.Option(
            help="Number of docstrings and functions to retrieve; or your own queries and relevant"
            ' documents: a BEIR folder, or .jsonl of {"query", "positive"}.'
        ),
    ] = str(LEAST)
    skip: Annotated[list[str] | None, typer.Option(help="ranks, lee or retrieval; repeatable.")] = (
        None
    )
    limit: Annotated[
        str | None,
        typer.Option(help="Exit with 1 if an upper bound of retrieval's or Lee's loss exceeds it."),
    ] = None
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None
    threads: Threads = None
    trust_remote_code: Trust = False
    quiet: Quiet = False


def judge(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders of one model.")],
    asked: JudgeFlags,
) -> None:
    """Judge ARTIFACTS against fp32: rank agreement, human judgements, code retrieval.

    Loss is 1 − artifact/fp32. Its upper bound is the upper end of the 95 % interval of a paired
    bootstrap.
    """
    from goldfold.exporter.verification import judging
    from goldfold.golden.judging.report import table

    most = None if asked.limit is None else _share(asked.limit)
    if asked.json_file is not None:
        _check_json(asked.json_file)
    with listening(asked.quiet) as listener:
        found = judging.judge_artifacts(
            artifacts,
            against=judging.Against(asked.model, asked.trust_remote_code),
            count=_count(asked.pairs),
            skip=asked.skip or (),
            threads=asked.threads,
            listener=listener,
            log=warn,
        )
    for reason in dict.fromkeys(reason for one in found for reason in one.missing):
        open_console(stderr=True).print(Text(f"left out: {reason}"), soft_wrap=True)
    console = open_console()
    for one in found:
        console.print(table(one.name, one.judgement))
        console.print(Text(one.sentence), soft_wrap=True)
    if asked.json_file is not None:
        judging.write(found, asked.json_file)
    if most is not None:
        judging.hold(found, most)


def _count(text: str) -> int | Path:
    """Returns a whole number as a count, and anything else as a path."""
    plain = text.strip()
    if re.fullmatch(r"[+-]?\d{1,18}", plain, re.ASCII):
        return int(plain)
    return expanded(text)


def _share(text: str) -> float:
    """Returns a share: `0.5%` → 0.005, `0.005` → 0.005."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)", text.strip())
    if match is None:
        raise UsageError(f"--limit {text!r} is no share such as 0.5%")
    return float(match[1]) / (100 if match[2] else 1)


def _check_json(file: Path) -> None:
    from goldfold.exporter.system.writing import check_file

    if not file.parent.is_dir():
        raise OutputError(f"cannot write {file}: there is no folder {file.parent}")
    check_file(file, "--json")
