"""Options that several commands share, and `flagged`: the fields of a frozen dataclass are flags.

    @dataclass(frozen=True)
    class DemoFlags:
        out: Annotated[Path, typer.Option(help="Folder for the artifact folders.")] = Path("demo")
        quiet: Quiet = False

    def demo(asked: DemoFlags) -> None: …

    app.command()(flagged(demo))      # goldfold demo --out FOLDER --quiet

This module may import nothing that is slow to load: `goldfold --help` loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from goldfold.exporter.errors import UsageError

Model = Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the runtime.")]
MaxLength = Annotated[
    int | None, typer.Option(help="Maximum length of a text in tokens; the model's by default.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the model. It can do anything.",
    ),
]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Neither read finished stages from the cache nor store them."),
]
Count = Annotated[
    int, typer.Option("--pairs", help="Number of docstrings and functions to retrieve.")
]
RequireRun = Annotated[
    bool,
    typer.Option(
        "--require-run",
        help="Exit with 1 for an artifact that was proved but not run here, in its precision.",
    ),
]
JudgeToo = Annotated[
    bool,
    typer.Option(
        "--judge",
        help="Judge quantized artifacts against their limit on retrieval. Takes minutes per"
        " artifact, and once the time of 6,000 texts in fp32.",
    ),
]
Unseen = Annotated[
    int,
    typer.Option(
        "--unseen",
        help="Number of unseen texts to compare with the source in fp32, as 1000; 0: none.",
    ),
]

Route = Annotated[
    str | None,
    typer.Option(help="The route of a model that has several: query or document, mostly."),
]

Revision = Annotated[
    str | None,
    typer.Option(help="The hub's commit, tag or branch of the model; the newest by default."),
]

Scripts = Annotated[
    str | None,
    typer.Option(
        help="Cut the vocabulary to what texts in these scripts need, as latin,greek; digits,"
        " punctuation, emoji and bytes stay."
    ),
]


Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--texts",
        help="File of your own texts (.txt, .jsonl, .csv, .tsv), which become goldens; FILE:query"
        " and FILE:document embed them as those. Repeatable.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(help="Field or column of your texts, or query,document of pairs."),
]


def flagged(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a function for typer that takes the flags of `command` one by one.

    A parameter of `command` that is a dataclass becomes a parameter for each of its fields, in
    place and in order; so does a field that is a dataclass itself. The others stay.
    """
    hints = get_type_hints(command, include_extras=True)
    given = [one.replace(annotation=hints[one.name]) for one in _parameters(command)]

    def run(**flags: Any) -> None:
        command(**{one.name: _gathered(one.name, one.annotation, flags) for one in given})

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, __name__
    spread = [flag for one in given for flag in _spread(one)]
    run.__signature__ = Signature(spread)  # type: ignore[attr-defined]
    return run


def _parameters(command: Callable[..., None]) -> list[Parameter]:
    kept = signature(command).parameters.values()
    return [one.replace(kind=Parameter.KEYWORD_ONLY) for one in kept]


def _spread(given: Parameter) -> Iterator[Parameter]:
    """Yields the flags of one parameter: those of its fields, or the parameter itself."""
    if not is_dataclass(given.annotation):
        yield given
        return
    hints = get_type_hints(given.annotation, include_extras=True)
    for field in fields(given.annotation):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = Parameter.empty if default is MISSING else default
        yield from _spread(
            Parameter(
                field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
            )
        )


def _gathered(name: str, kind: Any, flags: Mapping[str, Any]) -> Any:
    """Returns the value of one parameter, built from the flags that typer read."""
    if not is_dataclass(kind):
        return flags[name]
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{one: _gathered(one, hint, flags) for one, hint in hints.items()})  # type: ignore[operator]


def listed(text: str | None) -> tuple[str, ...]:
    """Returns the names of a list: `latin, greek` → ("latin", "greek")."""
    return () if text is None else tuple(part.strip() for part in text.split(","))


def whole_numbers(text: str | None, flag: str, example: str = "128,512") -> tuple[int, ...]:
    """Returns the numbers of a list: `128,512` → (128, 512). Raises UsageError naming the flag."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if text is not None and not (parts and all(p.isdecimal() and len(p) < 19 for p in parts)):
        raise UsageError(f"{flag} {text[:80]!r} is no list of numbers such as {example}")
    return tuple(int(part) for part in parts)
