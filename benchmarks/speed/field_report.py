"""The record of the whole field as tables, on a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Record = dict[str, Any]
NONE = "—"


def show(console: Console, record: Record, markdown: bool) -> None:
    """Print both tables, and what was not measured."""
    for title, rows in (("size, load and loss", facts(record)), (_speed(record), speeds(record))):
        if len(rows[0]) == 1:
            continue
        if markdown:
            print(f"{title}:\n\n{as_markdown(rows)}\n")
            continue
        table = Table(*rows[0][:1], box=SIMPLE_HEAD, title=title, title_justify="left")
        for heading in rows[0][1:]:
            table.add_column(heading, justify="right")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    for sentence in notes(record):
        if markdown:
            print(f"- {sentence}")
        else:
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def facts(record: Record) -> list[list[str]]:
    """A row a side: size, seconds to load, memory after a first call, 1−cos."""
    head = ["", "MB", "load s", "memory MB", "goldens: worst", "mean", "unseen: worst", "mean"]
    rows = [head]
    for row in record["sides"].values():
        held = row.get("called", row["loaded"])["resident"]
        cells = [
            _named(row), f"{row['size'] / 1e6:,.0f}", f"{row['load_s']:.1f}", f"{held / 1e6:,.0f}"
        ]  # fmt: skip
        for word in ("goldens", "unseen"):
            found = row.get(word)
            cells += [f"{found[k]:.1e}" if found else NONE for k in ("worst", "mean")]
        rows.append(cells)
    return rows


def speeds(record: Record) -> list[list[str]]:
    """A row a side: milliseconds at every shape, the median and the least."""
    rows = [["", *(text.replace("x", " × ") for text in record["shapes"])]]
    for row in record["sides"].values():
        found = [row["shapes"].get(text) for text in record["shapes"]]
        cells = [f"{one['median']:.1f} ({one['least']:.1f})" if one else NONE for one in found]
        rows.append([_named(row), *cells])
    return rows


def notes(record: Record) -> list[str]:
    """What a reader must know besides the tables."""
    found = [f"{row['label']} {row['note']}" for row in record["sides"].values() if row.get("note")]
    for row in record["sides"].values():
        apart = [size for size, way in row.get("ways", {}).items() if way != "together"]
        if apart:
            sizes = ", ".join(size.replace("x", " × ") for size in sorted(apart))
            found.append(f"{row['label']}: a call a text was faster than one of all, at {sizes}")
    if record["shapes"]:
        found.append(f"others used {record['others'] or 0:.0%} of the processors during the timing")
    return [*found, *(f"not measured: {sentence}" for sentence in record["absent"])]


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    first = "|".join(["---", *["---:"] * (len(rows[0]) - 1)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{first}|", *lines[1:]])


def _speed(record: Record) -> str:
    machine = record["machine"]
    plural = "" if machine["threads"] == 1 else "s"
    return (
        f"{record['model']}, batch × tokens, milliseconds: median (least); "
        f"{machine['threads']} thread{plural} of {machine['cpu']}"
    )


def _named(row: Record) -> str:
    return row["label"] + (" *" if row.get("note") else "")
