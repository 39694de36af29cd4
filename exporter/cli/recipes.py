"""`goldfold recipes`: the quantization recipes that come with goldfold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goldfold.exporter.cli.console import open_console

if TYPE_CHECKING:
    from goldfold.exporter.quantize.recipe import Choice, Recipe


def recipes() -> None:
    """List the recipes that come with goldfold: values of --precision besides fp32, fp16, bf16."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from goldfold.exporter.quantize import recipe
    from goldfold.golden.gate import GATES

    shown = Table(
        "recipe", "weights", "table", "activations", "gate: worst, mean 1−cos", "", box=SIMPLE_HEAD,
        pad_edge=False,
    )  # fmt: skip
    for name, one in recipe.shipped().items():
        gate = GATES[one.gate]
        shown.add_row(
            name, _bits(one.weights), _bits(one.table), _activations(one),
            f"{gate.worst:.0e}, {gate.mean:.0e}", one.summary,
        )  # fmt: skip
    open_console().print(shown)


def _bits(choice: Choice) -> str:
    if not choice.bits:
        return "floating"
    return f"int{choice.bits}" + (f", blocks of {choice.block}" if choice.block else "")


def _activations(recipe: Recipe) -> str:
    if recipe.dynamic:
        return f"dynamic, {recipe.dynamic}"
    return "static" if "static" in recipe.needs else "floating"
