"""The commands that are about goldens, and the options that several commands share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.errors import OutputError, UsageError
from goldfold.exporter.system.names import slug

golden_app = typer.Typer(help="Golden embeddings: what the reference says.", no_args_is_help=True)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")]
MaxLength = Annotated[
    int | None, typer.Option(help="The most tokens of a text; the model's own by default.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model. It can do anything.",
    ),
]


@golden_app.command("make")
def golden_make(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: golden/store.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the model.")] = None,
    max_length: MaxLength = None,
    trust_remote_code: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Make golden embeddings of MODEL with sentence-transformers, and store them."""
    from goldfold.exporter.driver.preparing import traced
    from goldfold.exporter.frontend.readiness import ready
    from goldfold.exporter.frontend.source import open_model
    from goldfold.exporter.progress import Stages
    from goldfold.exporter.system.cache import open_cache
    from goldfold.exporter.verification.goldens import check_length, make_goldens
    from goldfold.golden import store

    kept = open_cache()

    with listening(quiet) as listener:
        stages = Stages(listener)
        with stages("open"):
            source = open_model(model, name=name, trust_remote_code=trust_remote_code)
            folder = out or store.STORE / slug(source.name)
            _check_store(folder)
            source = ready(source, stages, kept)
        # Refuses a checkpoint that is not all of the model.
        check_length(traced(source, stages, max_length, cache=kept).contract, max_length)
        with stages("goldens"):
            goldens = make_goldens(source, stages, max_length)
            stages.note(f"{len(goldens.cases)} texts, {goldens.dim} dimensions")
    try:
        store.save(goldens, folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from None
    open_console().print(Text(str(folder)), soft_wrap=True)


def _check_store(folder: Path) -> None:
    """Refuse, before any work, a folder that cannot be written or holds more than goldens, because
    storing them replaces it whole."""
    from goldfold.golden.store import FILES

    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; give a folder with --out")
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    others = sorted(present - set(FILES))
    if others:
        raise OutputError(f"{folder} holds something else ({others[0]}); give another --out")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; give another --out") from None


def whole_numbers(text: str | None, flag: str, example: str = "128,512") -> tuple[int, ...]:
    """`128,512` → (128, 512). Raises UsageError naming the flag."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if text is not None and not (parts and all(part.isdecimal() for part in parts)):
        raise UsageError(f"{flag} {text!r} is no list of numbers such as {example}")
    return tuple(int(part) for part in parts)
