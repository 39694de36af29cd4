"""`goldfold judge`: what an artifact's errors cost its users."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.golden import Quiet, Trust
from goldfold.exporter.errors import GateMissed, OutputError, UsageError
from goldfold.exporter.progress import Listener, Stages
from goldfold.golden.judging.pairs import LEAST

if TYPE_CHECKING:
    from goldfold.exporter.verification.judging import Judged, Judges


Count = Annotated[int, typer.Option("--pairs", help="Docstrings and functions to retrieve.")]
JudgeToo = Annotated[
    bool,
    typer.Option(
        "--judge",
        help="Hold what is quantized to its limit on retrieval as well. Takes minutes for each"
        " artifact, and once as long as fp32 needs for 6,000 texts.",
    ),
]


def judge(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact folders of one model.")],
    model: Annotated[
        str | None,
        typer.Option(help="The source model: needed until its fp32 embeddings are kept."),
    ] = None,
    pairs: Count = LEAST,
    skip: Annotated[
        list[str] | None, typer.Option(help="ranks, lee or retrieval; repeatable.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(help="Exit with 1 if an upper bound of retrieval's or Lee's loss exceeds it."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")] = None,
    trust_remote_code: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Judge ARTIFACTS against fp32: rank agreement, people's judgements, code retrieval.

    Loss is 1 − artifact/fp32. Its upper bound ends the 95 % interval of a paired bootstrap.
    """
    from goldfold.exporter.system.writing import check_file
    from goldfold.exporter.verification.judging import judge_artifacts
    from goldfold.golden.judging.report import table

    most = None if limit is None else _share(limit)
    if json_file is not None and not json_file.parent.is_dir():
        raise OutputError(f"cannot write {json_file}: there is no folder {json_file.parent}")
    if json_file is not None:
        check_file(json_file, "--json")
    log = open_console(stderr=True)
    with listening(quiet) as listener:
        found = judge_artifacts(
            artifacts,
            model=model,
            count=pairs,
            skip=skip or (),
            threads=threads,
            trust_remote_code=trust_remote_code,
            listener=listener,
            log=_warn,
        )
    for reason in dict.fromkeys(reason for one in found for reason in one.missing):
        log.print(Text(f"left out: {reason}"), soft_wrap=True)
    console = open_console()
    for one in found:
        console.print(table(one.name, one.judgement))
        console.print(Text(one.sentence), soft_wrap=True)
    if json_file is not None:
        _write(json_file, found)
    if most is not None:
        _hold(found, most)


def check_alone(judge: bool, pairs: int) -> None:
    """Refuse --pairs where nothing is judged."""
    if pairs != LEAST and not judge:
        raise UsageError("--pairs is how many --judge takes; give both")


def check_integers(paths: Sequence[Path]) -> None:
    """Say which artifacts --judge leaves out, since they hold no integers; refuse if all are."""
    from goldfold.exporter.artifact.bundle import read_manifest

    floating = [path for path in paths if read_manifest(path).recipe is None]
    names = ", ".join(map(str, floating))
    if len(floating) == len(paths):
        raise UsageError(
            f"--judge holds integers to what they may lose, and {names} has none; "
            "`goldfold judge ARTIFACT` judges any artifact"
        )
    if floating:
        _warn(f"--judge leaves out what has no integers: {names}")


def judges_for(
    model: str | None, pairs: int, trust_remote_code: bool, listener: Listener | None
) -> Judges:
    """Who judges all artifacts of one `goldfold verify`."""
    from goldfold.exporter.verification.judging import check_pairs, convene, fp32_of

    check_pairs(pairs)
    stages = Stages(listener)
    return convene(stages, fp32_of(model, stages, trust_remote_code), count=pairs, log=_warn)


def _warn(text: str) -> None:
    open_console(stderr=True).print(Text(f"warning: {text}"), soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(judge)


def _share(text: str) -> float:
    """`0.5%` → 0.005, `0.005` → 0.005."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(%?)", text.strip())
    if match is None:
        raise UsageError(f"--limit {text!r} is no share such as 0.5%")
    return float(match[1]) / (100 if match[2] else 1)


def _hold(found: list[Judged], limit: float) -> None:
    """Raise GateMissed naming the worst figure of each artifact over the limit."""
    if all(one.judgement.worst is None for one in found):
        raise UsageError("--limit needs retrieval or the Lee corpus; nothing with a bound was run")
    over = [
        f"{one.path}: {worst.name} at {worst.dims} dims loses up to {worst.upper:.2%}"
        for one in found
        if (worst := one.judgement.worst) is not None and (worst.upper or 0.0) > limit
    ]
    if over:
        raise GateMissed(f"more than {limit:.2%} lost: {'; '.join(over)}")


def _write(file: Path, found: list[Judged]) -> None:
    from goldfold.exporter.system.writing import write_file

    text = json.dumps([one.to_json() for one in found], indent=1) + "\n"
    write_file(file, lambda opened: opened.write(text.encode()))
