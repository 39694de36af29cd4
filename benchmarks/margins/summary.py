"""Figures of all perturbations put together: by groups of kinds, and against the gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.margins.measuring import SETS
from goldfold.golden.gate import Gate

ASKED = 0.6
"""The share of the gate's worst that the worst over everything may be."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "natural language": (
        "script", "words", "long", "language", "english", "prompt", "card", "call", "titled",
        "length", "beyond",
    ),
    "code, numbers, mixed": ("code", "numbers", "mixed", "markup", "data", "shape"),
    "short, emoji": ("short", "tiny", "emoji"),
    "noise": (
        "combining", "controls", "private-use", "whitespace", "noise", "unicode", "punctuation",
    ),
}  # fmt: skip
"""Kinds of goldens and of unseen texts; `script:Thai` is `script`."""
OTHER = "other"
Row = dict[str, Any]


def group_of(kind: str) -> str:
    """Returns the group of a kind of text."""
    short = kind.partition(":")[0]
    return next((name for name, kinds in GROUPS.items() if short in kinds), OTHER)


def grouped(kinds: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Returns worst and mean of each group, from texts, worst and mean of each kind."""
    found: dict[str, list[Sequence[float]]] = {}
    for kind, figures in kinds.items():
        found.setdefault(group_of(kind), []).append(figures)
    return {
        name: (
            max(worst for _, worst, _ in rows),
            sum(count * mean for count, _, mean in rows) / sum(count for count, _, _ in rows),
        )
        for name, rows in found.items()
    }


def distributions(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Returns min, median and max over perturbations of `worst` and `mean`, by set and group."""
    pooled: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in SETS}
    for row in _measured(rows):
        for name in SETS:
            for group, figures in grouped(row[name]["kinds"]).items():
                pooled[name].setdefault(group, []).append(figures)
            figures = row[name]["worst"], row[name]["mean"]
            pooled[name].setdefault("all", []).append(figures)
    return {
        name: {group: _spread(seen) for group, seen in groups.items()}
        for name, groups in pooled.items()
    }


def _spread(seen: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    worst, mean = ([pair[at] for pair in seen] for at in (0, 1))
    return {
        what: [min(one), median(one), max(one)] for what, one in (("worst", worst), ("mean", mean))
    }


def verdict(rows: Iterable[Row], gate: Gate) -> Row:
    """Returns the worst text and the largest mean over everything, with their places, and the share
    of the gate's worst that the former takes."""
    found: Row = {"limit": gate.worst, "asked": ASKED, "mean_limit": gate.mean}
    measured = _measured(rows)
    for what in ("worst", "mean"):
        row, name = max(
            ((row, name) for row in measured for name in SETS), key=lambda at: at[0][at[1]][what]
        )
        found[what] = row[name][what]
        found[f"{what}_place"] = f"{row['name']}, {name}"
        if what == "worst":
            found["kind"] = row[name]["worst_kind"]
    share = found["worst"] / gate.worst
    return {**found, "share": share, "holds": share <= ASKED}


def said(target: str, found: Row) -> str:
    """Returns a verdict in a sentence."""
    mean = f"; largest mean {found['mean']:.2e} ({found['mean_place']})"
    limit = "" if found["mean_limit"] is None else f", gate's {found['mean_limit']:.0e}"
    return (
        f"{target}: worst over everything / gate's worst = {found['worst']:.1e} / "
        f"{found['limit']:.0e} = {found['share']:.2f} (at most {found['asked']} is asked), "
        f"{found['worst_place']}, {found['kind']}{mean}{limit}"
    )


def _measured(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row["impossible"]]


def row_table(target: str, rows: Iterable[Row]) -> Table:
    """Returns a line for each perturbation of a target that was measured."""
    table = Table(title=f"{target}: 1−cos", title_justify="left")
    table.add_column("perturbation", no_wrap=True)
    for name in SETS:
        for head in ("worst", "mean", "99.9 %"):
            table.add_column(f"{name} {head}", justify="right")
    table.add_column("worst unseen", no_wrap=True)
    for row in _measured(rows):
        cells = [
            f"{row[name][key]:.1e}" for name in SETS for key in ("worst", "mean", "percentile")
        ]
        same = f" = {row['same']}" if row["same"] else ""
        table.add_row(row["name"] + same, *cells, row["unseen"]["worst_kind"])
    return table


def not_measured(rows: Iterable[Row]) -> list[str]:
    """Returns a sentence for each reason why perturbations were not measured."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["impossible"]:
            found.setdefault(row["impossible"], []).append(row["name"])
    return [f"not possible, {', '.join(names)}: {reason}" for reason, names in found.items()]


def summary_table(target: str, found: Mapping[str, Any]) -> Table:
    """Returns a line for each set and group, from `distributions`."""
    table = Table(title=f"{target}: over all perturbations", title_justify="left")
    table.add_column("texts")
    for what in ("worst", "mean"):
        for head in ("min", "median", "max"):
            table.add_column(f"{what}, {head}", justify="right")
    for name, groups in found.items():
        for group in (*GROUPS, OTHER, "all"):
            if group in groups:
                both = groups[group]
                cells = [f"{one:.1e}" for what in ("worst", "mean") for one in both[what]]
                table.add_row(f"{name}, {group}", *cells)
        table.add_section()
    return table
