"""Plots as inline SVG: this module computes the coordinates, and the template draws them.

Colours are CSS variables of the page, so a plot follows its light or dark mode; the same figures
give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from goldfold.exporter.report.pages import ArtifactFigures, TextFigures
from goldfold.golden.report import human_size

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40
FLOOR = 1e-17
_CEILING = 1e17
"""The position of a 1−cos of 0 on a logarithmic axis: below f64's own rounding."""


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, linear or logarithmic, with its labelled ticks."""

    title: str
    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Returns 0 … 1 along the axis; a value outside is drawn on the axis's edge."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    style: str
    """A CSS class of the page."""
    title: str
    """The text that is shown when the dot is pointed at."""
    label: str = ""
    """The text beside the dot."""
    side: str = "start"
    """The end of the label that is at the dot."""
    radius: float = 3.0


@dataclass(frozen=True)
class Rule:
    """A horizontal line with a word on it; a vertical one where it has an x."""

    y: float
    label: str
    x: float | None = None


@dataclass(frozen=True)
class Bar:
    """A line from one point to another."""

    x1: float
    y1: float
    x2: float
    y2: float
    style: str
    """A CSS class of the page."""


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """A plot, in pixels of a WIDTH × HEIGHT box."""

    title: str
    note: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    rules: tuple[Rule, ...] = ()
    path: str = ""
    """A line through points, as an SVG path."""
    key: tuple[tuple[str, str], ...] = ()
    """(style, meaning) of the dots."""
    bars: tuple[Bar, ...] = ()
    """Bars, drawn behind the dots."""
    left: int = LEFT
    """The left edge of the plot, in pixels: further right where the labels of y are words."""


def by_length(artifact: ArtifactFigures) -> Plot | None:
    """Plots 1−cos of every text, by its length."""
    rounded = artifact.emulated is not None
    found: list[tuple[TextFigures, str, float]] = []
    for text in artifact.texts:
        alone = text.emulated_alone if rounded else text.alone
        padded = text.emulated_padded if rounded else text.padded
        ways = (("padded", padded), ("alone", alone))
        found += [(text, way, one) for way, one in ways if one is not None and math.isfinite(one)]
    if not found:
        return None
    limits = [artifact.limit] if artifact.limit else []
    y = decades(artifact.quantity, [figure for *_, figure in found] + limits)
    longest = max(text.tokens for text, *_ in found)
    ticks = tuple((float(2**k), str(2**k)) for k in range(0, 20, 2) if 2**k <= longest)
    x = Axis("tokens", 0.8, longest * 1.25, True, ticks)
    return Plot(
        f"{artifact.quantity} by text length",
        "Every golden text alone and in a padded batch"
        + (", every value rounded to its type in emulation." if rounded else "."),
        x.title,
        y.title,
        x_ticks(x),
        y_ticks(y),
        tuple(
            Dot(
                x_of(x.at(text.tokens)),
                y_of(y.at(figure)),
                f"w-{way} {'bad' if artifact.limit and figure > artifact.limit else ''}",
                f"{text.id} ({way}): {text.tokens} tokens, {artifact.quantity} {figure:.1e}",
                radius=4.3 if way == "padded" else 2.6,
            )
            for text, way, figure in found
        ),
        rules=tuple(Rule(y_of(y.at(limit)), f"limit {limit:.0e}") for limit in limits),
        key=(("w-alone", "alone"), ("w-padded", "padded")),
    )


def similarities(artifact: ArtifactFigures) -> Plot | None:
    """Plots golden against artifact: the error of a similarity, by the similarity."""
    if not artifact.pairs:
        return None
    most = max((abs(y) for _, y in artifact.pairs), default=0.0) or 1e-12
    low, high = min(x for x, _ in artifact.pairs), max(x for x, _ in artifact.pairs)
    x = linear("golden similarity", low - 0.02, high + 0.02, lambda v: f"{v + 0:.3g}")
    y = Axis(
        "artifact − golden",
        -1.15 * most,
        1.15 * most,
        False,
        ((-most, power(-most)), (0.0, "0"), (most, power(most))),
    )
    return Plot(
        "Similarities, golden against artifact",
        f"{len(artifact.pairs)} drawn pairs of texts, run alone. A dot on the line is a similarity"
        " that did not change.",
        x.title,
        y.title,
        x_ticks(x),
        y_ticks(y),
        tuple(
            Dot(x_of(x.at(a)), y_of(y.at(b)), "w-alone", f"golden {a:.3f}, artifact {b:+.1e}")
            for a, b in artifact.pairs
        ),
        rules=(Rule(y_of(y.at(0.0)), ""),),
    )


def drift(artifact: ArtifactFigures) -> Plot | None:
    """Plots the worst short text after every pass, where the export was asked for it."""
    looks = artifact.drift
    if len(looks) < 2:
        return None
    worst = [look.worst for look in looks if math.isfinite(look.worst)]
    y = decades(f"worst {artifact.quantity}", worst or [1.0])
    x = Axis("pass", 0.0, len(looks) - 1.0, False, ())
    dots = [
        Dot(
            x_of(0.02 + 0.96 * x.at(index)),
            y_of(y.at(min(look.worst, y.high))),
            "w-alone" + ("" if math.isfinite(look.worst) else " bad"),
            f"{index + 1}. after {look.after}: worst "
            + (f"{look.worst:.1e}" if math.isfinite(look.worst) else "not finite")
            + f" ({look.worst_id})",
        )
        for index, look in enumerate(looks)
    ]
    path = "M" + "L".join(f"{dot.x},{dot.y}" for dot in dots)
    numbers = tuple(Tick(dot.x, str(index + 1)) for index, dot in enumerate(dots))
    return Plot(
        "Drift after each pass",
        ", ".join(f"{index + 1} {look.after}" for index, look in enumerate(looks)) + ".",
        x.title,
        y.title,
        numbers,
        y_ticks(y),
        tuple(dots),
        path=path,
    )


def decades(title: str, values: Sequence[float]) -> Axis:
    """Returns a logarithmic axis of whole decades around `values`."""
    low = max(min(values), FLOOR)
    high = min(max([*values, FLOOR]), _CEILING)  # a verdict may hold any number
    low = min(low, high)
    first, last = math.floor(math.log10(low) - 0.15), math.ceil(math.log10(high) + 0.15)
    step = max(1, math.ceil((last - first) / 6))
    powers = range(first, last + 1, step)
    return Axis(
        title, 10.0**first, 10.0**last, True, tuple((10.0**p, power(10.0**p)) for p in powers)
    )


def linear(title: str, low: float, high: float, name) -> Axis:
    """Returns a linear axis with at most six round ticks."""
    span = high - low or 1.0
    step = 10.0 ** math.floor(math.log10(span / 2))
    step = next(step * k for k in (1, 2, 2.5, 5, 10, 20) if span / (step * k) <= 5)
    first = math.ceil(low / step - 1e-9)
    values = [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(
        title,
        low,
        high,
        False,
        tuple((v, name(round(v) if name is human_size else v)) for v in values),
    )


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float) -> str:
    """1e-8 → 10⁻⁸, 3.2e-7 → 3.2·10⁻⁷."""
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(_RAISED)
    if mantissa in ("1.0", "-1.0"):
        return f"{'−' if value < 0 else ''}10{raised}"
    return f"{mantissa.replace('-', '−')}·10{raised}"


def x_of(share: float, left: int = LEFT) -> float:
    """Returns pixels of 0 … 1 along the plot, which begins at `left`."""
    return round(left + share * (WIDTH - left - RIGHT), 1)


def y_of(share: float) -> float:
    """Returns pixels of 0 … 1 from the bottom of the plot."""
    return round(TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM), 1)


def x_ticks(axis: Axis) -> tuple[Tick, ...]:
    return tuple(Tick(x_of(axis.at(value)), label) for value, label in axis.ticks)


def y_ticks(axis: Axis) -> tuple[Tick, ...]:
    return tuple(Tick(y_of(axis.at(value)), label) for value, label in axis.ticks)
