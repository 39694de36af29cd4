"""The record as tables: what the README quotes is what this prints."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

LOUD = 0.03
"""The share of the processors from which a reader should be told that others worked: a core of
thirty-two."""


def show(console: Console, record: dict[str, Any]) -> None:
    """Every table that the record has rows for."""
    for sentence in record["absent"]:
        console.print(f"not measured: {sentence}", highlight=False, markup=False)
    for variant in record["variants"]:
        console.print(_heading(variant), highlight=False, soft_wrap=True)
        console.print(_speed(variant))
        if (variant["others"] or 0.0) > LOUD:
            console.print(f"  not quiet: others used {variant['others']:.0%} of the processors")
        for sentence in (*variant["absent"], *((variant["stream"] or {}).get("refused", ()))):
            console.print(f"  not measured: {sentence}", highlight=False)
    if record["loads"]:
        console.print(_loads(record))
    for table in (_memory(record), _quality(record), _census(record)):
        if table.row_count:
            console.print(table)


def _table(title: str | None, first: str, *headings: str) -> Table:
    table = Table(first, box=SIMPLE_HEAD, title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _heading(variant: dict[str, Any]) -> str:
    limit = variant["limit"]
    capped = "".join(f", {name}={value}" for name, value in variant["env"].items())
    return (
        f"{variant['variant']}{capped}: milliseconds; the least that {limit['flop_s'] / 1e9:.0f} "
        f"GFLOP/s ({limit['kernel']}) and {limit['bytes_s'] / 1e9:.1f} GB/s allow; "
        "ratio to goldfold"
    )


def _speed(variant: dict[str, Any]) -> Table:
    names = list(variant["load"])
    table = _table(None, "batch × tokens", "least", *names)
    for row in variant["shapes"]:
        cells = _against_first([row["ms"][name]["median"] for name in names], "{:.1f}")
        table.add_row(f"{row['batch']} × {row['tokens']}", f"{row['least_ms']:.1f}", *cells)
    if variant["stream"]:
        found = variant["stream"]["s"]
        cells = _against_first([found.get(name) for name in names], "{:.1f} s")
        table.add_row("stream", "", *cells)
    return table


def _against_first(values: list[float | None], form: str) -> list[str]:
    """Each value, and beside all but the first how many times the first it is."""
    cells = []
    first = values[0] if values else None
    for place, value in enumerate(values):
        if value is None:
            cells.append("-")
            continue
        cell = form.format(value)
        cells.append(cell if place == 0 or not first else f"{cell}  {value / first:.2f}×")
    return cells


def _loads(record: dict[str, Any]) -> Table:
    title = "seconds to load, without OpenVINO's model cache and with it"
    table = _table(title, "side", "variant", "no cache", "filling", "from cache", "cache")
    for variant, sides in record["loads"].items():
        for name, row in sides.items():
            table.add_row(
                name, variant, *(f"{row[key]:.2f}" for key in ("none", "filling", "cached")),
                f"{row['cache_bytes'] / 1e6:.0f} MB",
            )  # fmt: skip
    return table


def _memory(record: dict[str, Any]) -> Table:
    title = "memory after load and a first call; own is what no file backs"
    table = _table(title, "side", "variant", "load s", "resident", "own")
    for variant in record["variants"]:
        for name, row in variant["load"].items():
            after = row["after_a_call"]
            table.add_row(
                name, variant["variant"], f"{row['s']:.2f}",
                f"{after['resident'] / 1e9:.2f} GB", f"{after['own'] / 1e9:.2f} GB",
            )  # fmt: skip
    return table


def _quality(record: dict[str, Any]) -> Table:
    title = "1−cos against the fp32 reference"
    table = _table(title, "side", "variant", "texts", "worst", "mean", "padded", "not finite")
    for variant in record["variants"]:
        for name, row in variant["quality"].items():
            table.add_row(
                name, variant["variant"], str(row["texts"]), f"{row['worst']:.1e}",
                f"{row['mean']:.1e}", f"{row['worst_padded']:.1e}", str(len(row["not_finite"])),
            )  # fmt: skip
    return table


def _census(record: dict[str, Any]) -> Table:
    """Layers of the compiled models, one column a side and variant, most frequent first."""
    columns = {
        f"{name}\n{variant['variant']}": facts["layers"]
        for variant in record["variants"]
        for name, facts in variant["census"].items()
    }
    table = _table("layers of the compiled model", "layer", *columns)
    kinds = {kind for layers in columns.values() for kind in layers}
    most = {kind: max(layers.get(kind, 0) for layers in columns.values()) for kind in kinds}
    for kind in sorted(kinds, key=lambda kind: (-most[kind], kind)):
        table.add_row(kind, *(str(layers.get(kind, "")) for layers in columns.values()))
    return table
