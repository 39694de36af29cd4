"""`goldfold export --fit`: the search for what fits a size, its table and its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.errors import UsageError

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result
    from goldfold.exporter.cli.export import ExportFlags


def check(size: str | None, state: Path | None) -> None:
    """Refuse, before anything slow is loaded, a size that is none, and --state without --fit."""
    if size is None:
        if state is not None:
            raise UsageError("--state is where the search of --fit goes on; give both")
        return
    from goldfold.exporter.search.sizing import parse

    parse(size)


def runner(model: str, asked: ExportFlags, given: Mapping[str, Any]) -> Callable[[], list[Result]]:
    """Returns a function that fits, prints the candidates, and returns the chosen artifacts."""
    from goldfold.exporter.search import fit_outcome
    from goldfold.exporter.search.fit import Wanted, fit

    def run() -> list[Result]:
        wanted = Wanted(
            model,
            asked.fit or "",
            tuple(dict.fromkeys(asked.target)),
            tuple(asked.precision or ()),
            asked.out,
            asked.state,
            asked.pairs,
            given,
        )
        with listening(asked.quiet or asked.as_json) as listener:
            fitted = fit(wanted, listener)
        written = fit_outcome.write(fitted, asked.out)
        console = open_console(stderr=asked.as_json)
        if not (asked.quiet and asked.as_json):
            console.print(fit_outcome.table(fitted))
            console.print(Text(fit_outcome.RULE), soft_wrap=True)
            for file in written:
                console.print(Text(str(file)), soft_wrap=True)
        return fitted.results

    return run
