"""`goldfold export --fit`: the search for what fits a size, its table and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.errors import UsageError

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result


@dataclass(frozen=True)
class Fitting:
    """The options of an export that a fit reads itself."""

    size: str
    state: Path | None
    targets: Sequence[str]
    precisions: Sequence[str]
    out: Path
    pairs: int
    quiet: bool
    as_json: bool


def check(size: str | None, state: Path | None) -> None:
    """Refuse, before anything slow is loaded, a size that is none, and --state without --fit."""
    if size is None:
        if state is not None:
            raise UsageError("--state is where the search of --fit goes on; give both")
        return
    from goldfold.exporter.search.sizing import parse

    parse(size)


def runner(model: str, asked: Fitting, given: Mapping[str, Any]) -> Callable[[], list[Result]]:
    """Returns a function that fits, prints the candidates, and returns the chosen artifacts."""
    from goldfold.exporter.search import fit_outcome
    from goldfold.exporter.search.fit import fit
    from goldfold.exporter.search.fit_candidates import Wanted

    def run() -> list[Result]:
        targets = tuple(dict.fromkeys(asked.targets))
        precisions = tuple(dict.fromkeys(asked.precisions))
        wanted = Wanted(
            model, asked.size, targets, precisions, asked.out, asked.state, asked.pairs, given
        )
        with listening(asked.quiet or asked.as_json) as listener:
            fitted = fit(wanted, listener)
        written = fit_outcome.write(fitted, asked.out)
        console = open_console(stderr=asked.as_json)
        console.print(fit_outcome.table(fitted))
        console.print(Text(fit_outcome.RULE), soft_wrap=True)
        for file in written:
            console.print(Text(str(file)), soft_wrap=True)
        return fitted.results

    return run
