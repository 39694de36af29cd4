"""`goldfold export`: export a model as artifacts, and verify each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from goldfold.exporter.cli import fitting
from goldfold.exporter.cli.console import listening
from goldfold.exporter.cli.flags import (
    AsJson,
    Column,
    Count,
    JudgeToo,
    MaxLength,
    Model,
    NoCache,
    Quiet,
    RequireRun,
    Revision,
    Route,
    Scripts,
    Texts,
    Trust,
    Unseen,
    listed,
    whole_numbers,
)
from goldfold.exporter.cli.results import exported
from goldfold.exporter.cli.target_flags import TargetFlags
from goldfold.exporter.system import mapped
from goldfold.golden.judging.pairs import LEAST

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result


@dataclass(frozen=True)
class ExportFlags:
    """The options of `goldfold export`."""

    target: Annotated[
        list[str], typer.Option(help="A target of `goldfold targets`; repeatable.")
    ] = field(default_factory=lambda: ["openvino"])
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32 (the default), fp16, bf16, a recipe or its file; repeatable."),
    ] = None
    out: Annotated[Path, typer.Option(help="Folder for the artifact folders.")] = Path("out")
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None
    revision: Revision = None
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds other things.")
    ] = False
    skip: Annotated[list[str] | None, typer.Option(help="Do not run this pass; repeatable.")] = None
    stop_after: Annotated[
        int | None, typer.Option(min=0, help="Stop rewriting after this many applications.")
    ] = None
    dump: Annotated[
        Path | None, typer.Option(help="Write the graph after every pass into this folder.")
    ] = None
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Record the drift after every pass and layer.")
    ] = False
    no_locate: Annotated[
        bool, typer.Option("--no-locate", help="Do not locate the fault behind a missed gate.")
    ] = False
    max_length: MaxLength = None
    dims: Annotated[
        str | None, typer.Option(help="Embedding sizes, as 768,256; the model's by default.")
    ] = None
    route: Route = None
    scripts: Scripts = None
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="Cut the vocabulary to what the texts of this file, one a line, need."),
    ] = None
    texts: Texts = None
    column: Column = None
    private_texts: Annotated[
        bool,
        typer.Option(
            "--private-texts",
            help="Keep digests and embeddings of your texts in the artifact instead of them.",
        ),
    ] = False
    calibration_texts: Annotated[
        list[str] | None,
        typer.Option(help="File of texts to calibrate by instead of the built-in; repeatable."),
    ] = None
    fit: Annotated[
        str | None,
        typer.Option(help="One artifact a target of at most this size, as 100MB: weights, graph."),
    ] = None
    state: Annotated[Path | None, typer.Option(help="Folder for resuming the search of --fit.")] = (
        None
    )
    build: TargetFlags = field(default_factory=TargetFlags)
    judge: JudgeToo = False
    pairs: Count = LEAST
    unseen: Unseen = 0
    no_cache: NoCache = False
    trust_remote_code: Trust = False
    allow_incomplete: Annotated[
        bool,
        typer.Option(
            "--allow-incomplete",
            help="Export a checkpoint that lacks tensors of the model, or has extra ones.",
        ),
    ] = False
    require_run: RequireRun = False
    quiet: Quiet = False
    as_json: AsJson = False


def export(model: Model, asked: ExportFlags) -> None:
    """Export MODEL for every target and precision, and verify each artifact."""
    from goldfold.exporter.driver import exporting
    from goldfold.exporter.driver.request import at_revision
    from goldfold.exporter.passes.pipeline import Options
    from goldfold.exporter.verification.judging import check_alone

    mapped.arm()
    build = asked.build.given()
    fitting.check(asked.fit, asked.state)
    check_alone(asked.judge or asked.fit is not None, asked.pairs)
    source = at_revision(model, asked.revision)
    given = {
        "name": asked.name,
        "force": asked.force,
        "trust_remote_code": asked.trust_remote_code,
        "allow_incomplete": asked.allow_incomplete,
        "options": Options(frozenset(asked.skip or ()), asked.stop_after, asked.dump),
        "verify_each": asked.verify_each,
        "max_length": asked.max_length,
        "dims": whole_numbers(asked.dims, "--dims"),
        "build": build,
        "locate": not asked.no_locate,
        "cache": not asked.no_cache,
        "judge": asked.judge,
        "pairs": asked.pairs,
        "unseen": asked.unseen,
        "route": asked.route,
        "scripts": listed(asked.scripts),
        "vocabulary": asked.vocabulary,
        "texts": asked.texts or (),
        "column": asked.column,
        "private_texts": asked.private_texts,
        "calibration_texts": asked.calibration_texts or (),
    }

    def run() -> list[Result]:
        with listening(asked.quiet or asked.as_json) as listener:
            return exporting.export(
                source,
                asked.target,
                asked.precision or ["fp32"],
                asked.out,
                listener=listener,
                **given,
            )

    if asked.fit is not None:
        fit = fitting.Fitting(
            asked.fit, asked.state, asked.target, asked.precision or (), asked.out, asked.pairs,
            asked.quiet, asked.as_json,
        )  # fmt: skip
        run = fitting.runner(source, fit, given)
    exported(run, asked.as_json, asked.require_run)
