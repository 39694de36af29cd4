"""Pictures as inline SVG: coordinates are worked out here, the template draws them.

Colours are CSS variables of the page, so a picture follows its light or dark mode; the same figures
give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exporter.reporting.collect import ArtifactFigures, Report, TextFigures
from golden.report import human_size

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 40
FLOOR = 1e-17
"""Where a logarithmic axis shows 1−cos of 0: below f64's own rounding."""


@dataclass(frozen=True)
class Axis:
    """`low` to `high`, linear or logarithmic, with its labelled ticks."""

    title: str
    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """0 … 1 along the axis; what lies outside is drawn on its edge."""
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
    """Shown when pointed at."""
    label: str = ""
    """Written beside it."""
    side: str = "start"
    """Which end of the label is at the dot."""
    radius: float = 3.0


@dataclass(frozen=True)
class Rule:
    """A horizontal line with a word on it."""

    y: float
    label: str


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """All in pixels of a WIDTH × HEIGHT box."""

    title: str
    note: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    rules: tuple[Rule, ...] = ()
    path: str = ""
    """A line through points, as SVG writes one."""
    key: tuple[tuple[str, str], ...] = ()
    """(style, meaning) of the dots."""


def overview(report: Report) -> Plot | None:
    """Size against the worst text of every artifact: small and close is down and left."""
    shown = [a for a in report.artifacts if a.judged and math.isfinite(a.judged.larger)]
    if len(shown) < 2:
        return None
    sizes, kinds = [a.bytes for a in shown], list(dict.fromkeys(a.target for a in shown))
    x = _linear("size", min([*sizes, 0]), max(sizes) * 1.12, human_size)
    y = _decades("worst 1−cos", [a.judged.larger for a in shown if a.judged])
    dots = [
        Dot(
            _x(x.at(a.bytes)),
            _y(y.at(a.judged.larger)),
            f"t-{a.target} {'bad' if a.state != 'passed' else ''}",
            f"{a.folder}: {human_size(a.bytes)}, worst 1−cos {a.judged.larger:.1e}",
            radius=max(3.0, 8.0 - 1.7 * kinds.index(a.target)),  # one on another shows as rings
        )
        for a in shown
        if a.judged
    ]
    return Plot(
        "Size and quality",
        "Each artifact once; down and left is better. Point at a dot for its figures.",
        x.title,
        y.title,
        _x_ticks(x),
        _y_ticks(y),
        tuple(_labelled(dots, [a.precision for a in shown])),
        key=tuple((f"t-{kind}", kind) for kind in kinds),
    )


def _labelled(dots: Sequence[Dot], labels: Sequence[str]) -> Iterable[Dot]:
    """The dots with their labels, but for those that would lie on another's."""
    taken: list[tuple[float, float, str]] = []
    for dot, label in zip(dots, labels, strict=True):
        near = [t for t in taken if abs(t[0] - dot.x) < 52 and abs(t[1] - dot.y) < 13]
        side = "end" if dot.x > WIDTH - 80 else "start"
        if near:
            yield dot
            continue
        taken.append((dot.x, dot.y, label))
        yield replace(dot, label=label, side=side)


def by_length(artifact: ArtifactFigures) -> Plot | None:
    """1−cos of every text, by its length."""
    rounded = artifact.emulated is not None
    found: list[tuple[TextFigures, str, float]] = []
    for text in artifact.texts:
        alone = text.emulated_alone if rounded else text.alone
        padded = text.emulated_padded if rounded else text.padded
        ways = (("padded", padded), ("alone", alone))
        found += [(text, way, figure) for way, figure in ways if figure is not None]
    if not found:
        return None
    limits = [artifact.limit] if artifact.limit else []
    y = _decades("1−cos", [figure for *_, figure in found] + limits)
    longest = max(text.tokens for text, *_ in found)
    ticks = tuple((float(2**k), str(2**k)) for k in range(0, 20, 2) if 2**k <= longest)
    x = Axis("tokens", 0.8, longest * 1.25, True, ticks)
    return Plot(
        "1−cos by text length",
        "Every golden text alone and in a padded batch"
        + (", every value rounded to its type in emulation." if rounded else "."),
        x.title,
        y.title,
        _x_ticks(x),
        _y_ticks(y),
        tuple(
            Dot(
                _x(x.at(text.tokens)),
                _y(y.at(figure)),
                f"w-{way} {'bad' if artifact.limit and figure > artifact.limit else ''}",
                f"{text.id} ({way}): {text.tokens} tokens, 1−cos {figure:.1e}",
                radius=4.3 if way == "padded" else 2.6,
            )
            for text, way, figure in found
        ),
        rules=tuple(Rule(_y(y.at(limit)), f"limit {limit:.0e}") for limit in limits),
        key=(("w-alone", "alone"), ("w-padded", "padded")),
    )


def similarities(artifact: ArtifactFigures) -> Plot | None:
    """Golden against artifact: the error of a similarity, by the similarity."""
    if not artifact.pairs:
        return None
    most = max((abs(y) for _, y in artifact.pairs), default=0.0) or 1e-12
    low, high = min(x for x, _ in artifact.pairs), max(x for x, _ in artifact.pairs)
    x = _linear("golden similarity", low - 0.02, high + 0.02, lambda v: f"{v + 0:.3g}")
    y = Axis(
        "artifact − golden",
        -1.15 * most,
        1.15 * most,
        False,
        ((-most, _power(-most)), (0.0, "0"), (most, _power(most))),
    )
    return Plot(
        "Similarities, golden against artifact",
        f"{len(artifact.pairs)} drawn pairs of texts, run alone. A dot on the line is a similarity"
        " that did not change.",
        x.title,
        y.title,
        _x_ticks(x),
        _y_ticks(y),
        tuple(
            Dot(_x(x.at(a)), _y(y.at(b)), "w-alone", f"golden {a:.3f}, artifact {b:+.1e}")
            for a, b in artifact.pairs
        ),
        rules=(Rule(_y(y.at(0.0)), ""),),
    )


def drift(artifact: ArtifactFigures) -> Plot | None:
    """The worst short text after every pass, where the export was asked for it."""
    looks = artifact.drift
    if len(looks) < 2:
        return None
    worst = [look.worst for look in looks if look.worst is not None]
    y = _decades("worst 1−cos", worst or [1.0])
    x = Axis("pass", 0.0, len(looks) - 1.0, False, ())
    dots = [
        Dot(
            _x(0.02 + 0.96 * x.at(index)),
            _y(y.at(y.high if look.worst is None else look.worst)),
            "w-alone" + (" bad" if look.worst is None else ""),
            f"{index + 1}. after {look.after}: worst "
            + ("not finite" if look.worst is None else f"{look.worst:.1e}")
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
        _y_ticks(y),
        tuple(dots),
        path=path,
    )


@dataclass(frozen=True)
class Candidate:
    """One point of a front: less of both is better."""

    x: float
    y: float
    style: str
    title: str
    label: str = ""


def front(
    title: str,
    note: str,
    axis: str,
    measure: str,
    candidates: Sequence[Candidate],
    limit: float | None,
    name: Callable[[Any], str] = human_size,
    key: tuple[tuple[str, str], ...] = (),
) -> Plot:
    """What quality costs: `candidates` by what they cost and by 1−cos, with a line through those
    that no other beats at both. There is one at least.

    Args:
        axis, measure: what x and y are called; `name` writes a tick of x.
        limit: a 1−cos to draw a rule at.
    """
    x = _linear(axis, 0.0, max(one.x for one in candidates) * 1.15, name)
    y = _decades(measure, [one.y for one in candidates] + ([limit] if limit else []))
    dots = [Dot(_x(x.at(c.x)), _y(y.at(c.y)), c.style, c.title, radius=4.0) for c in candidates]
    best: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: (c.x, c.y)):
        if not best or one.y < best[-1].y:
            best.append(one)
    points = [f"{_x(x.at(one.x))},{_y(y.at(one.y))}" for one in best]
    return Plot(
        title,
        note,
        x.title,
        y.title,
        _x_ticks(x),
        _y_ticks(y),
        tuple(_labelled(dots, [c.label for c in candidates])),
        rules=(Rule(_y(y.at(limit)), f"budget {limit:.1g}"),) if limit else (),
        path="M" + "L".join(points) if len(points) > 1 else "",
        key=key,
    )


def _decades(title: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis of whole decades around `values`."""
    low = max(min(values), FLOOR)
    high = max([*values, FLOOR])
    first, last = math.floor(math.log10(low) - 0.15), math.ceil(math.log10(high) + 0.15)
    step = max(1, math.ceil((last - first) / 6))
    powers = range(first, last + 1, step)
    return Axis(
        title, 10.0**first, 10.0**last, True, tuple((10.0**p, _power(10.0**p)) for p in powers)
    )


def _linear(title: str, low: float, high: float, name) -> Axis:
    """A linear axis with at most six round ticks."""
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


def _power(value: float) -> str:
    """1e-8 → 10⁻⁸, 3.2e-7 → 3.2·10⁻⁷."""
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(_RAISED)
    if mantissa in ("1.0", "-1.0"):
        return f"{'−' if value < 0 else ''}10{raised}"
    return f"{mantissa.replace('-', '−')}·10{raised}"


def _x(share: float) -> float:
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _y(share: float) -> float:
    return round(TOP + (1.0 - share) * (HEIGHT - TOP - BOTTOM), 1)


def _x_ticks(axis: Axis) -> tuple[Tick, ...]:
    return tuple(Tick(_x(axis.at(value)), label) for value, label in axis.ticks)


def _y_ticks(axis: Axis) -> tuple[Tick, ...]:
    return tuple(Tick(_y(axis.at(value)), label) for value, label in axis.ticks)
