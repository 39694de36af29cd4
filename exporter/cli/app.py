"""The `goldfold` command: each calls one public function and prints what it returns."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from goldfold.exporter import __version__
from goldfold.exporter.cli import cache, coreml, embed, layout, passes, quantize, report, trust
from goldfold.exporter.cli import judge as cli_judge
from goldfold.exporter.cli.cache import NoCache
from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.cli.exit_codes import flushed, guarded
from goldfold.exporter.cli.golden import (
    AsJson,
    MaxLength,
    Quiet,
    Threads,
    Trust,
    golden_app,
    whole_numbers,
)
from goldfold.exporter.cli.judge import Count, JudgeToo
from goldfold.exporter.cli.results import Lost, attempt, exported, verified
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.exporter.system import interrupt, natives
from goldfold.golden.judging.pairs import LEAST

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result

app = typer.Typer(
    name="goldfold",
    help="Compile a SentenceTransformer, and prove that nothing changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(golden_app, name="golden")
passes.add_to(app)
cache.add_to(app)
coreml.add_to(app)
embed.add_to(app)
cli_judge.add_to(app)
layout.add_to(app)
quantize.add_to(app)
report.add_to(app)
trust.add_to(app)

out_console = open_console(stderr=False)
log_console = open_console(stderr=True)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    target: Annotated[list[str], typer.Option(help="As `goldfold targets` lists; repeatable.")] = [  # noqa: B006
        "openvino"
    ],
    precision: Annotated[
        list[str], typer.Option(help="fp32, fp16, bf16, a recipe or its file; repeatable.")
    ] = ["fp32"],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Artifact folders go here.")] = Path("out"),
    name: Annotated[str | None, typer.Option(help="What to call the model.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write into a folder that holds other things.")
    ] = False,
    skip: Annotated[
        list[str] | None, typer.Option(help="Do not run this pass; repeatable.")
    ] = None,
    stop_after: Annotated[
        int | None, typer.Option(min=0, help="Stop rewriting after so many applications.")
    ] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Write the graph after every pass into this folder.")
    ] = None,
    verify_each: Annotated[
        bool, typer.Option("--verify-each", help="Record the drift after every pass and layer.")
    ] = False,
    no_locate: Annotated[
        bool, typer.Option("--no-locate", help="Do not look where a missed gate comes from.")
    ] = False,
    max_length: MaxLength = None,
    dims: Annotated[
        str | None, typer.Option(help="Sizes of the embedding, as 768,256; the model's by default.")
    ] = None,
    compute_capability: Annotated[
        list[str] | None, typer.Option(help="tensorrt: an architecture, as sm86; repeatable.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="tensorrt: least:usual:most batch x tokens, as 1x1:8x128:32x512."),
    ] = None,
    compatible: Annotated[
        list[str] | None, typer.Option(help="tensorrt: version or hardware; repeatable.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="openvino: texts in every call, filled up where they lack.")
    ] = None,
    buckets: Annotated[
        str | None, typer.Option(help="coreml, openvino: static lengths in tokens, as 128,512.")
    ] = None,
    flexible: Annotated[
        bool,
        typer.Option(
            "--flexible",
            help="coreml: open lengths instead of buckets; the Neural Engine then takes no part.",
        ),
    ] = False,
    minimum_target: Annotated[
        str | None, typer.Option(help="coreml: the oldest system to run on, as iOS18.")
    ] = None,
    judge: JudgeToo = False,
    pairs: Count = LEAST,
    no_cache: NoCache = False,
    trust_remote_code: Trust = False,
    allow_incomplete: Annotated[
        bool,
        typer.Option(
            "--allow-incomplete",
            help="Export a checkpoint that lacks tensors of the model, or has some too many.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Export MODEL for every target and precision, and verify each artifact."""
    from goldfold.exporter.driver.exporting import export as run
    from goldfold.exporter.options import BuildOptions
    from goldfold.exporter.passes.pipeline import Options

    build = BuildOptions(
        compute_capability=tuple(compute_capability or ()),
        profile=tuple(profile or ()),
        compatible=tuple(compatible or ()),
        batch=batch,
        buckets=whole_numbers(buckets, "--buckets"),
        flexible=flexible,
        minimum_target=minimum_target,
    )
    if flexible:
        log_console.print(
            "warning: a flexible length keeps Core ML off the Neural Engine; buckets do not",
            highlight=False,
            soft_wrap=True,
        )
    cli_judge.check_alone(judge, pairs)

    def exporting() -> list[Result]:
        with listening(quiet or as_json) as listener:
            return run(
                model,
                target,
                precision,
                out,
                name=name,
                force=force,
                trust_remote_code=trust_remote_code,
                allow_incomplete=allow_incomplete,
                options=Options(frozenset(skip or ()), stop_after, dump),
                verify_each=verify_each,
                max_length=max_length,
                dims=whole_numbers(dims, "--dims"),
                build=build,
                locate=not no_locate,
                cache=not no_cache,
                judge=judge,
                pairs=pairs,
                listener=listener,
            )

    exported(exporting, as_json)


@app.command()
def verify(
    folders: Annotated[
        list[Path], typer.Argument(help="Artifact folders, or one that holds them.")
    ],
    signature: Annotated[
        Path | None, typer.Option(help="Check this signature of the one artifact first.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The key that the signature must be of, in PEM.")
    ] = None,
    judge: JudgeToo = False,
    pairs: Count = LEAST,
    model: Annotated[
        str | None, typer.Option(help="--judge: the source, until its fp32 embeddings are kept.")
    ] = None,
    threads: Threads = None,
    trust_remote_code: Trust = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check every digest of an artifact, and run its goldens again."""
    from goldfold.exporter.verification.verifying import verify as run

    signed = None
    if signature is not None or public_key is not None:
        signed = _check_signature(_artifacts(folders), signature, public_key)
    cli_judge.check_alone(judge, pairs)
    if model is not None and not judge:
        raise UsageError("--model is what --judge compares with; give both")
    with listening(quiet or as_json) as listener:
        paths = _artifacts(folders)
        if judge:
            cli_judge.check_integers(paths)
        judges = cli_judge.judges_for(model, pairs, trust_remote_code, listener) if judge else False

        def verifying(path: Path) -> Result:
            return run(path, threads=threads, judge=judges, listener=listener)

        found = [attempt(verifying, path, alone=len(paths) == 1) for path in paths]
    first = found[0] if signed is not None else None
    if first is not None and not isinstance(first, Lost) and first.bundle.manifest.digest != signed:
        raise ArtifactError(f"{first.path} was replaced after its signature was checked")
    verified(found, as_json)


def _check_signature(paths: list[Path], signature: Path | None, key: Path | None) -> str:
    from goldfold.exporter.artifact.sign import check

    if signature is None or key is None:
        raise UsageError("--signature and --public-key go together")
    if len(paths) != 1:
        raise UsageError(f"--signature is of one artifact, and {len(paths)} are given")
    return check(paths[0], signature, key)


def _artifacts(folders: list[Path]) -> list[Path]:
    """Each folder, or the artifacts in it if it holds some."""
    from goldfold.exporter.artifact.bundle import is_artifact

    paths = []
    for folder in folders:
        inside = sorted(p for p in folder.glob("*") if is_artifact(p)) if folder.is_dir() else []
        paths += inside if inside and not is_artifact(folder) else [folder]
    return paths


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    census: Annotated[
        bool, typer.Option("--census", help="Compile it and count what its runtime executes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what an artifact is, how it was made and what was measured."""
    from goldfold.exporter.report import inspection

    found = inspection.inspect(folder, census)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        for part in found.tables():
            out_console.print(part)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Artifact folders go here.")] = Path("demo"),
    quiet: Quiet = False,
) -> None:
    """Export a small real model (all-MiniLM-L6-v2, from PyPI) for every target that works here."""
    from goldfold.exporter import registry
    from goldfold.exporter.artifact.encoder import load
    from goldfold.exporter.driver.exporting import export as run
    from goldfold.exporter.frontend import packaged

    folder = packaged.locate(packaged.MINILM)
    missing = {name: registry.unavailable(name) for name in registry.names()}
    works = [name for name, reason in missing.items() if reason is None]
    for name, reason in missing.items():
        if reason is not None:
            log_console.print(Text(f"without {name}: {reason}"), soft_wrap=True)

    def exporting() -> list[Result]:
        with listening(quiet) as listener:
            precisions, name = ("fp32", "fp16"), packaged.MINILM.name
            return run(folder, works, precisions, out, name=name, listener=listener)

    results = exported(exporting, as_json=False)
    texts = ["How do plants eat?", "Leaves turn light into sugar.", "The train leaves at noon."]
    question, *answers = load(results[0].path).embed(texts)
    shown = Table(f"similarity to “{texts[0]}”", "", title="Try it", title_justify="left")
    for text, row in zip(texts[1:], answers, strict=True):
        shown.add_row(text, f"{float(question @ row):.3f}")
    out_console.print(shown)


@app.command()
def targets() -> None:
    """List the targets, what they offer, and whether they work on this machine."""
    from goldfold.exporter import registry

    shown = Table("target", "precisions", "integers", "here", title="Targets", title_justify="left")
    reasons = []
    for name in registry.names():
        target = registry.target(name)
        missing, stuck = registry.unavailable(name), target.cannot_run()
        works = "no" if missing else "builds" if stuck else "builds and runs"
        integers = ", ".join(sorted(target.quantizes)) or "none"
        shown.add_row(name, ", ".join(target.precisions), integers, works)
        reasons += [f"{name}: {reason}" for reason in (missing or stuck,) if reason]
    out_console.print(shown)
    for reason in reasons:
        out_console.print(Text(reason), soft_wrap=True)


def _version(asked: bool) -> None:
    if asked:
        print(f"goldfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile a SentenceTransformer, and prove that nothing changed."""


def main() -> None:
    """Run the command line. A failure is one line on standard error and a documented exit code."""
    interrupt.running()
    debug = "--debug" in sys.argv[1:]
    if not debug:
        natives.be_quiet()
    code = flushed(guarded(app, debug))
    interrupt.done()
    sys.exit(code)
