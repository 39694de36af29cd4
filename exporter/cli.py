"""The `goldfold` command: each calls one public function and prints what it returns."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from exporter import (
    __version__,
    cli_cache,
    cli_coreml,
    cli_judge,
    cli_laws,
    cli_layout,
    cli_quantize,
    cli_report,
    cli_trust,
    interrupt,
)
from exporter.cli_cache import NoCache
from exporter.cli_golden import AsJson, Quiet, Trust, golden_app, whole_numbers
from exporter.cli_judge import Count, JudgeToo
from exporter.cli_results import show
from exporter.console import listening, open_console
from exporter.errors import ArtifactError, OutputError, UsageError
from exporter.guard import flushed, guarded
from golden.judging.pairs import LEAST

app = typer.Typer(
    name="goldfold",
    help="Compile a SentenceTransformer, and prove that nothing changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(golden_app, name="golden")
cli_laws.add_to(app)
cli_cache.add_to(app)
cli_coreml.add_to(app)
cli_judge.add_to(app)
cli_layout.add_to(app)
cli_quantize.add_to(app)
cli_report.add_to(app)
cli_trust.add_to(app)

Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")]


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
    max_length: Annotated[
        int | None, typer.Option(help="The most tokens of a text; the model's own by default.")
    ] = None,
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
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Export MODEL for every target and precision, and verify each artifact."""
    from exporter.exporting import export as run
    from exporter.options import BuildOptions
    from exporter.pipeline import Options

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
    with listening(quiet or as_json) as listener:
        results = run(
            model,
            target,
            precision,
            out,
            name=name,
            force=force,
            trust_remote_code=trust_remote_code,
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
    show(results, as_json)


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
    from exporter.verifying import verify as run

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
        results = [run(path, threads=threads, judge=judges, listener=listener) for path in paths]
    if signed is not None and results[0].bundle.manifest.digest != signed:
        raise ArtifactError(f"{results[0].path} was replaced after its signature was checked")
    show(results, as_json)


def _check_signature(paths: list[Path], signature: Path | None, key: Path | None) -> str:
    from exporter.signing import check

    if signature is None or key is None:
        raise UsageError("--signature and --public-key go together")
    if len(paths) != 1:
        raise UsageError(f"--signature is of one artifact, and {len(paths)} are given")
    return check(paths[0], signature, key)


def _artifacts(folders: list[Path]) -> list[Path]:
    """Each folder, or the artifacts in it if it holds some."""
    from exporter.bundle import is_artifact

    paths = []
    for folder in folders:
        inside = sorted(p for p in folder.glob("*") if is_artifact(p)) if folder.is_dir() else []
        paths += inside if inside and not is_artifact(folder) else [folder]
    return paths


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; - reads lines from stdin.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of one of the model's prompts.")] = None,
    dims: Annotated[int | None, typer.Option(help="Keep so many leading dimensions.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write a .npy file instead of printing.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    output: Annotated[
        str, typer.Option(help="float32, int8, uint8, binary or ubinary.")
    ] = "float32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Embed texts with an artifact."""
    from exporter.encoder import load
    from exporter.scratch import check_file

    if not texts:
        raise UsageError("give at least one text, or - to read lines from standard input")
    if save is not None:
        check_file(save, "--save")
    if texts == ["-"]:
        if sys.stdin is None:
            raise UsageError("standard input is closed; give the texts, or open it")
        texts = [line.rstrip("\n") for line in sys.stdin]
    rows = load(folder, threads=threads).embed(texts, prompt, dims, batch_size, output)
    if save is not None:
        _save(save, rows)
        return
    if as_json:
        print(json.dumps(rows.tolist()))
        return
    for row in rows:
        print(" ".join(f"{number:.7g}" for number in row))


def _save(path: Path, rows: Any) -> None:
    import numpy as np

    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink()
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    census: Annotated[
        bool, typer.Option("--census", help="Compile it and count what its runtime executes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what an artifact is, how it was made and what was measured."""
    from exporter import inspection

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
    from exporter import packaged, registry
    from exporter.encoder import load
    from exporter.exporting import export as run

    folder = packaged.locate(packaged.MINILM)
    works = [name for name in registry.names() if registry.target(name).unavailable() is None]
    with listening(quiet) as listener:
        results = run(
            folder, works, ("fp32", "fp16"), out, name=packaged.MINILM.name, listener=listener
        )
    show(results, as_json=False)
    texts = ["How do plants eat?", "Leaves turn light into sugar.", "The train leaves at noon."]
    question, *answers = load(results[0].path).embed(texts)
    shown = Table(f"similarity to “{texts[0]}”", "", title="Try it", title_justify="left")
    for text, row in zip(texts[1:], answers, strict=True):
        shown.add_row(text, f"{float(question @ row):.3f}")
    out_console.print(shown)


@app.command()
def targets() -> None:
    """List the targets, what they offer, and whether they work on this machine."""
    from exporter import registry

    shown = Table("target", "precisions", "integers", "here", title="Targets", title_justify="left")
    for name in registry.names():
        target = registry.target(name)
        integers = ", ".join(sorted(target.quantizes)) or "none"
        shown.add_row(name, ", ".join(target.precisions), integers, _works(target))
    out_console.print(shown)


def _works(target: Any) -> str:
    reason = target.unavailable()
    if reason is not None:
        return reason
    reason = target.cannot_run()
    return "yes" if reason is None else f"builds; does not run: {reason}"


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
    code = flushed(guarded(app, "--debug" in sys.argv[1:]))
    interrupt.done()
    sys.exit(code)
