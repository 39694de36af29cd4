"""The recipe with the least error within a size: the search's assignment with its two sides
exchanged.

    minimise Σ_g error[g, o_g]  over o,  while Σ_g bytes[g, o_g] ≤ size − the rest

The rest, and the widths in which a target stores scales and floating point, are read off three
predictions (sizing.py); the chosen recipe is then predicted itself, and chosen again with what the
first choice was off by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from goldfold.exporter.quantize.recipe import Choice, Recipe
from goldfold.exporter.search import assign, groups
from goldfold.exporter.search.groups import FLOAT, Group

Predict = Callable[[Recipe], int]
"""The bytes of a recipe's artifact."""
_TRIES = 6
_WIDTHS = 1.0, 8.0
"""Bytes of a number, whatever a prediction says."""


@dataclass(frozen=True)
class Model:
    """The bytes of an artifact, as a sum over its groups."""

    rest: float
    scale: float
    """Bytes of a scale."""
    number: float
    """Bytes of a number in floating point."""

    def bytes(self, group: Group, choice: Choice) -> float:
        """Returns what a group takes under a choice."""
        if not choice.bits:
            return self.number * group.weights
        scales = group.scales(choice)
        return group.bytes(choice) - 2 * scales + self.scale * scales


def recipe(name: str, found: Sequence[Group], chosen: Sequence[Choice], said: str = "") -> Recipe:
    """Returns the recipe of a choice. Size is all that is asked for, so the rest is computed
    closely."""
    made = groups.recipe(name, found, chosen, "size", True, said)
    return made.with_(around="close")


def smallest(found: Sequence[Group], name: str) -> Recipe:
    """Returns the recipe with every group at its fewest bytes."""
    return recipe(name, found, [min(group.options, key=group.bytes) for group in found])


def model_of(found: Sequence[Group], predict: Predict) -> Model:
    """Returns the sum that three predictions follow."""
    coarse = [next((c for c in group.options if c.bits), FLOAT) for group in found]
    fine = [min(group.options, key=group.bytes) for group in found]
    able = [group for group in found if len(group.options) > 1]
    maps = [group for group in able if group.kinds != ("table",)] or able
    largest = max(maps, key=lambda group: group.weights)
    mixed = [FLOAT if g is largest else c for g, c in zip(found, coarse, strict=True)]

    def known(chosen: Sequence[Choice]) -> tuple[float, int]:
        """What the files hold beside the integers, and the number of scales."""
        pairs = [(g, c) for g, c in zip(found, chosen, strict=True) if c.bits]
        scales = sum(group.scales(c) for group, c in pairs)
        integers = sum(group.bytes(c) for group, c in pairs) - 2 * scales
        return predict(recipe("size", found, chosen)) - integers, scales

    (left, few), (right, many), (above, some) = known(coarse), known(fine), known(mixed)
    scale = float(np.clip((right - left) / (many - few), *_WIDTHS)) if many != few else 2.0
    rest = left - scale * few
    number = float(np.clip((above - rest - scale * some) / largest.weights, *_WIDTHS))
    return Model(rest, scale, number)


def within(
    found: Sequence[Group],
    errors: Sequence[np.ndarray],
    limit: int,
    name: str,
    predict: Predict,
) -> Recipe | None:
    """Returns the recipe of the least mean error, estimated on the tuning texts, of those whose
    artifact takes at most `limit` bytes. None where no choice fits, and where floating point does.

    Args:
        errors: f64 [options, texts] per group (search.errors_of).
    """
    costs = [rows.mean(axis=1) for rows in errors]
    model = model_of(found, predict)
    sizes = [np.array([model.bytes(g, c) for c in g.options]) for g in found]
    room, seen = limit - model.rest, set[tuple[int, ...]]()
    best: tuple[float, Recipe] | None = None
    for _ in range(_TRIES):
        picked = None
        if room > 0:
            picked = assign.cheapest(costs, [size[:, None] / room for size in sizes])
        if picked is None or picked in seen:
            break
        if not any(picked):
            return None
        seen.add(picked)
        chosen = [group.options[o] for group, o in zip(found, picked, strict=True)]
        said = f"found by a search for the least error within {limit:,} bytes"
        made, error = recipe(name, found, chosen, said), assign.cost(costs, picked)
        left = limit - predict(made)
        if left >= 0 and (best is None or error < best[0]):
            best = error, made
        room = assign.cost(sizes, picked) + left
    return None if best is None else best[1]
