"""The plot of quality against cost for the joint trials of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from goldfold.exporter.report import plots
from goldfold.exporter.report.pareto import labelled, line, lowest
from goldfold.exporter.report.plots import Dot, Plot, Rule
from goldfold.golden.report import human_size


@dataclass(frozen=True)
class Candidate:
    """One point of a Pareto front: less of both is better."""

    x: float
    y: float
    style: str
    title: str
    label: str = ""


def front(
    title: str,
    axis: str,
    measure: str,
    candidates: Sequence[Candidate],
    limit: float | None,
    name: Callable[[Any], str] = human_size,
    key: tuple[tuple[str, str], ...] = (),
) -> Plot:
    """`candidates` by cost and by 1−cos, with a line through the Pareto front: those that no other
    beats at both. At least one candidate is needed.

    Args:
        axis, measure: the labels of x and y; `name` writes a tick of x.
        limit: a 1−cos to draw a rule at.
    """
    x = plots.linear(axis, 0.0, max(one.x for one in candidates) * 1.15, name)
    y = plots.decades(measure, [one.y for one in candidates] + ([limit] if limit else []))

    def at(one: Candidate) -> tuple[float, float]:
        return plots.x_of(x.at(one.x)), plots.y_of(y.at(one.y))

    dots = [Dot(*at(one), one.style, one.title, radius=4.0) for one in candidates]
    best = lowest(candidates, lambda one: (one.x, one.y))
    return Plot(
        title,
        "",
        x.title,
        y.title,
        plots.x_ticks(x),
        plots.y_ticks(y),
        tuple(labelled(dots, [one.label for one in candidates])),
        rules=(Rule(plots.y_of(y.at(limit)), f"budget {limit:.1g}"),) if limit else (),
        path=line([at(one) for one in best]),
        key=key,
    )
