"""The report prints verdicts on the console: one table, and the reasons below it.

`worst` is of texts run alone, `padded` of the same texts in padded mixed batches, `texts` is how
many were measured, `s` is seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldfold.golden.compare import Measurement
from goldfold.golden.gate import Status, Verdict
from goldfold.golden.tasks import EMBEDDING, QUANTITY

STYLES: dict[Status, str] = {"passed": "bold green", "proved": "bold cyan", "failed": "bold red"}
"""Only a file that ran itself is green."""


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact: `size` in bytes, `seconds` of building and checking together."""

    name: str
    size: int
    seconds: float
    measurement: Measurement
    verdict: Verdict
    task: str = EMBEDDING


def table(rows: Iterable[Row]) -> Table:
    """The verdicts, one line per artifact. Figures are errors against the fp32 reference."""
    rows = list(rows)
    quantities = dict.fromkeys(QUANTITY[row.task] for row in rows) or [QUANTITY[EMBEDDING]]
    # No frame: the table must fit into 80 columns with nothing cut off.
    out = Table(
        title=f"{' and '.join(quantities)} against the fp32 reference",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    out.add_column("artifact", no_wrap=True)
    for heading in ("size", "worst", "padded", "mean"):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("worst text", overflow="fold")
    for heading in ("texts", "s"):
        out.add_column(heading, justify="right", no_wrap=True)
    out.add_column("verdict", no_wrap=True)
    for row in rows:
        measured = row.measurement
        out.add_row(
            Text(_line(row.name)),
            human_size(row.size),
            f"{measured.worst:.1e}",
            f"{measured.worst_padded:.1e}",
            f"{measured.mean:.1e}",
            Text(_line(measured.worst_id)),
            str(len(measured.rows)),
            f"{row.seconds:.0f}",
            Text(row.verdict.word, STYLES[row.verdict.status]),
        )
    return out


def proofs(rows: Iterable[Row]) -> list[str]:
    """What ran in place of each proved artifact, and why it did not run itself: a line for each."""
    return [
        f"{_line(row.name)}: proved by {_line(row.verdict.stand_in)}; {_line(row.verdict.not_run)}"
        for row in rows
        if row.verdict.status == "proved"
    ]


def reasons(rows: Iterable[Row], most: int = 10) -> Text:
    """The reasons of failed artifacts, at most `most` sentences each and a count of the rest; "" if
    none failed.

    A Text, so that brackets in a text's id or a path are not read as markup.
    """
    lines: list[str] = []
    for row in rows:
        if row.verdict.passed:
            continue
        given = row.verdict.sentences
        lines.append(f"{_line(row.name)} failed its gate:")
        lines.extend(f"  {_line(reason)}" for reason in given[:most])
        if len(given) > most:
            lines.append(f"  and {len(given) - most} more.")
    return Text("\n".join(lines))


def _line(text: str) -> str:
    """A name from an artifact's goldens on one line, whatever characters it holds."""
    return " ".join(text.split())


def human_size(size: int) -> str:
    """Bytes in decimal units, as file managers and download pages count: 618.3 MB."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        # 999.95 would print as 1000.0: continue with the next unit instead.
        if value < 999.95 or unit == "GB":
            return f"{value:.1f} {unit}"
    raise AssertionError("the loop returns at GB")
