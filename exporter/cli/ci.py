"""`goldfold ci`: the pipeline that goldfold.toml describes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, one_line, open_console
from goldfold.exporter.cli.flags import (
    AsJson,
    JudgeToo,
    MaxLength,
    NoCache,
    Quiet,
    RequireRun,
    Revision,
    Trust,
    whole_numbers,
)
from goldfold.exporter.cli.results import show
from goldfold.exporter.cli.target_flags import TargetFlags
from goldfold.exporter.errors import OutputError
from goldfold.exporter.system import mapped

if TYPE_CHECKING:
    from goldfold.exporter.driver.pipelining import Done
    from goldfold.exporter.report.pipeline_file import PipelineFile


@dataclass(frozen=True)
class CiFlags:
    """The options of `goldfold ci`: each that is given wins over the file."""

    file: Annotated[Path, typer.Option(help="The pipeline's file.")] = Path("goldfold.toml")
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented file to start from, and do no more.")
    ] = False
    model: Annotated[
        str | None, typer.Option(help="A folder, a hub id, or `packaged`; instead of the file's.")
    ] = None
    revision: Revision = None
    target: Annotated[
        list[str] | None, typer.Option(help="A target; repeatable. Instead of the file's.")
    ] = None
    precision: Annotated[
        list[str] | None,
        typer.Option(help="A precision, or a recipe's file; repeatable. Instead of the file's."),
    ] = None
    out: Annotated[Path | None, typer.Option(help="Folder for the artifact folders.")] = None
    max_length: MaxLength = None
    dims: Annotated[str | None, typer.Option(help="Embedding sizes, as 768,256.")] = None
    judge: JudgeToo = False
    unseen: Annotated[int | None, typer.Option(help="Number of unseen texts.")] = None
    build: TargetFlags = field(default_factory=TargetFlags)
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds other things.")
    ] = False
    no_cache: NoCache = False
    trust_remote_code: Trust = False
    require_run: RequireRun = False
    quiet: Quiet = False
    as_json: AsJson = False


def ci(asked: CiFlags) -> None:
    """Export what changed, hold it to its limits, report: all that goldfold.toml says.

    An artifact of the last run is kept where its source, its options and goldfold are the same and
    every digest is right. Exits with 1 where an artifact missed its gate or a limit.
    """
    from goldfold.exporter.driver import pipelining
    from goldfold.exporter.report import pipeline_file

    if asked.init:
        _init(asked.file)
        return
    mapped.arm()
    wanted = _by_hand(asked, pipeline_file.load(asked.file, given=_given(asked)))
    with listening(asked.quiet or asked.as_json) as listener:
        done = pipelining.run(
            wanted, cache=not asked.no_cache, force=asked.force, listener=listener
        )
    if asked.as_json:
        print(json.dumps(_plain(done), indent=1, allow_nan=False))
    else:
        _say(done, asked.quiet)
    if done.error is not None:
        raise done.error


def _given(asked: CiFlags) -> dict[str, Any]:
    """Returns what the file need not say, because it is given by hand."""
    return {} if asked.model is None else {"model": asked.model}


def _by_hand(asked: CiFlags, found: PipelineFile) -> PipelineFile:
    """Returns the pipeline with the options that are given by hand."""
    given: dict[str, Any] = {
        "model": asked.model,
        "revision": asked.revision,
        "targets": tuple(asked.target or ()) or None,
        "precisions": tuple(asked.precision or ()) or None,
        "out": None if asked.out is None else str(asked.out),
        "max_length": asked.max_length,
        "dims": whole_numbers(asked.dims, "--dims") or None,
        "judge": asked.judge or None,
        "unseen": asked.unseen,
        "trust_remote_code": asked.trust_remote_code or None,
        "require_run": asked.require_run or None,
    }
    if asked.model is not None and asked.revision is None:
        found = found.with_(revision=None)  # the file's is of another model
    found = found.with_(**{name: value for name, value in given.items() if value is not None})
    if asked.target is not None or asked.precision is not None:
        found = found.narrowed()
    return found.with_(options={**found.options, **asked.build.given()})


def _init(file: Path) -> None:
    from goldfold.exporter.report.pipeline_start import START
    from goldfold.exporter.system.writing import write_file

    if file.exists() or file.is_symlink():
        raise OutputError(f"{file} is there already; give another --file, or remove it")
    write_file(file, lambda opened: opened.write(START.encode()))
    open_console().print(Text(str(file)), soft_wrap=True)


def _say(done: Done, quiet: bool) -> None:
    from goldfold.golden.gate import WORDS
    from goldfold.golden.report import STYLES

    console, log = open_console(), open_console(stderr=True)
    if done.results:
        show(done.results, as_json=False)
    for name in done.kept:
        console.print(Text.assemble((f"{name}: kept", "dim"), ", every digest right"))
    for one in done.laid:
        if one.digest:
            console.print(Text(f"laid out: {one.place}", "dim"), soft_wrap=True)
    for one in done.report.artifacts:
        for reason in one.reasons[-3:] if one.state not in ("passed", "proved") else ():
            log.print(Text(f"{one.folder}: {one_line(reason)}"), soft_wrap=True)
    for note in () if quiet else done.notes:
        log.print(Text(note), soft_wrap=True)
    verdict = (WORDS[done.report.status], STYLES[done.report.status])
    console.print(Text.assemble(verdict, f" {done.page}"), soft_wrap=True)


def _plain(done: Done) -> dict[str, Any]:
    from goldfold.exporter.report.verdict_page import change, figure_of

    artifacts = []
    for one in done.report.artifacts:
        figure = figure_of(one)
        name = one.folder.removesuffix(".failed")
        artifacts.append(
            {
                "name": name,
                "target": one.target,
                "precision": one.precision,
                "kept": name in done.kept,
                **figure.plain(),
                "since_last_run": change(figure, done.before.get(name)),
                "reasons": list(one.reasons),
            }
        )
    return {
        "status": done.report.status,
        "code": 0 if done.error is None else done.error.code,
        "verdict": str(done.page),
        "artifacts": artifacts,
        "layouts": [{"out": one.place, "error": one.note} for one in done.laid],
        "notes": list(done.notes),
    }
