"""Plots of all artifacts side by side: size, speed and quality, and the Pareto front: for an
artifact on it, no other is as small, as fast and as close."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from goldfold.exporter.report import plots
from goldfold.exporter.report.pages import ArtifactFigures, Report
from goldfold.exporter.report.plots import Axis, Bar, Dot, Plot
from goldfold.golden.report import human_size

T = TypeVar("T")

_NEAR = 58, 13
"""Pixels within which two labels would overlap."""
_LETTER = 5.8
"""Pixels of a letter of a label."""


def front(report: Report) -> tuple[str, ...]:
    """Returns the folders on the Pareto front: artifacts that passed or were proved, and that no
    other of these beats, being at least as small, as fast at every shape and as close to the
    reference, and better in one. Speed counts between two artifacts that were timed in the same
    turns."""
    able = [a for a in report.artifacts if a.state in ("passed", "proved") and a.judged is not None]
    return tuple(
        mine.folder
        for mine in able
        if not any(_better(other, mine, report) for other in able if other is not mine)
    )


def _better(a: ArtifactFigures, b: ArtifactFigures, report: Report) -> bool:
    same = a.speed is not None and b.speed is not None and a.speed.taken == b.speed.taken
    return _beats(_score(a, report, same), _score(b, report, same))


def _score(artifact: ArtifactFigures, report: Report, timed: bool) -> tuple[float, ...]:
    assert artifact.judged is not None
    times = [artifact.per_text(*shape) or math.inf for shape in report.timed] if timed else []
    return (artifact.bytes, artifact.judged.larger, *times)


def _beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def pictures(report: Report) -> list[Plot]:
    """Returns plots of size and quality and, where there are times, of speed and quality."""
    found = [_against(report, "size", lambda a: float(a.bytes), "Size and quality")]
    if report.timed:
        batch, tokens = report.timed[-1]
        found.append(
            _against(
                report,
                f"ms per text, {batch} × {tokens} tokens",
                lambda a: a.per_text(batch, tokens),
                "Speed and quality",
            )
        )
    return [plot for plot in found if plot is not None]


def _against(report: Report, title: str, value, name: str) -> Plot | None:
    """Plots `value` of every artifact against its worst and mean 1−cos, with its gate."""
    shown = [
        (artifact, x)
        for artifact in report.artifacts
        if artifact.judged and math.isfinite(artifact.judged.larger)
        if (x := value(artifact)) is not None
    ]
    if len(shown) < 2:
        return None
    best, kinds = front(report), list(dict.fromkeys(a.target for a, _ in shown))
    named = human_size if title == "size" else (lambda v: f"{v:.3g}")
    x = plots.linear(title, 0, max(at for _, at in shown) * 1.14, named)
    y = plots.decades(f"{report.quantity}: worst, mean, gate", list(_heights(a for a, _ in shown)))
    dots, bars = [], []
    for artifact, at in shown:
        judged = artifact.judged
        assert judged is not None
        across, worst = plots.x_of(x.at(at)), plots.y_of(y.at(judged.larger))
        bars += _stem(artifact, across, worst, y)
        bad = "" if artifact.state in ("passed", "proved") else "bad"
        faint = "" if artifact.folder in best or bad else "faint"
        said = f"{artifact.folder}: {human_size(artifact.bytes)}"
        said += f", worst {artifact.quantity} {judged.larger:.1e}"
        said += "" if title == "size" else f", {at:.3g} {title}"
        said += "; proved, not run itself" if artifact.state == "proved" else ""
        said += "" if artifact.share is None else f", {artifact.share:.0%} of its gate"
        radius = max(3.0, 7.0 - 1.3 * kinds.index(artifact.target))  # equal dots show as rings
        dots.append(Dot(across, worst, f"t-{artifact.target} {bad}{faint}", said, radius=radius))
    where = "down and left is better" + ("; full colour: on the front" if best else "")
    return Plot(
        name,
        f"Dot: worst text; line: down to the mean; dash: its gate. {where.capitalize()}.",
        x.title,
        y.title,
        plots.x_ticks(x),
        plots.y_ticks(y),
        tuple(labelled(dots, [a.precision for a, _ in shown])),
        key=tuple((f"t-{kind}", kind) for kind in kinds),
        bars=tuple(bars),
    )


def _heights(artifacts: Iterable[ArtifactFigures]) -> Iterable[float]:
    for artifact in artifacts:
        judged = artifact.judged
        if judged is not None:
            yield judged.larger
            yield from (v for v in (judged.mean, artifact.limit) if v and math.isfinite(v))


def _stem(artifact: ArtifactFigures, x: float, worst: float, y: Axis) -> Iterable[Bar]:
    """Yields a bar from the worst text to the mean, and a dash at the gate."""
    mean = artifact.judged.mean if artifact.judged else None
    if mean is not None and math.isfinite(mean):
        yield Bar(x, worst, x, plots.y_of(y.at(mean)), "stem")
    if artifact.limit:
        gate = plots.y_of(y.at(artifact.limit))
        yield Bar(x - 7, gate, x + 7, gate, "gate")


def lowest(points: Iterable[T], of: Callable[[T], tuple[float, float]]) -> list[T]:
    """Returns the Pareto front of points by two figures of which less is better, in the order of
    the first: each has less of the second than all before it.

    >>> lowest([(3, 1), (1, 5), (2, 6), (2, 2)], lambda point: point)
    [(1, 5), (2, 2), (3, 1)]
    """
    best: list[T] = []
    for one in sorted(points, key=of):
        if not best or of(one)[1] < of(best[-1])[1]:
            best.append(one)
    return best


def line(places: Sequence[tuple[float, float]]) -> str:
    """Returns the SVG path through pixels; "" for fewer than two."""
    said = [",".join(map(str, place)) for place in places]
    return "M" + "L".join(said) if len(said) > 1 else ""


@dataclass(frozen=True)
class Lossy:
    """An artifact, or another tool's file, by its size and its loss in retrieval."""

    size: float
    """Bytes of weights and graph."""
    loss: float
    """A share of the source's nDCG@10."""
    upper: float
    """The upper end of the loss's interval."""
    style: str
    name: str
    title: str
    compares: bool = True
    """Whether the loss was measured as the others were: the front runs through no other."""


LEAST_LOSS = 1e-4
"""The loss at which a smaller one, or a gain, is drawn: the axis is logarithmic."""


def by_loss(title: str, points: Sequence[Lossy], limits: Sequence[int]) -> Plot | None:
    """Plots sizes and the upper ends of losses in retrieval, with a bar down to the loss itself,
    and a line through the Pareto front. `limits` are the sizes that were asked for. None without
    points."""
    if not points:
        return None
    across = max([one.size for one in points] + [float(limit) for limit in limits])
    x = plots.linear("weights and graph", 0, across * 1.14, human_size)
    ends = [max(end, LEAST_LOSS) for one in points for end in (one.loss, one.upper)]
    y = plots.decades("loss of nDCG@10, at most", ends)
    y = replace(y, ticks=tuple((value, f"{100 * value:g} %") for value, _ in y.ticks))

    def at(size: float, loss: float) -> tuple[float, float]:
        return plots.x_of(x.at(size)), plots.y_of(y.at(max(loss, LEAST_LOSS)))

    able = [one for one in points if one.compares]
    best = lowest(able, lambda one: (one.size, one.upper))
    first = sorted(points, key=lambda p: p.style != "chosen")  # whose labels have a place
    dots = [Dot(*at(one.size, one.upper), one.style, one.title, radius=4.0) for one in first]
    return Plot(
        title,
        "",
        x.title,
        y.title,
        plots.x_ticks(x),
        plots.y_ticks(y),
        tuple(_named(dots, [one.name for one in first])),
        path=line([at(one.size, one.upper) for one in best]),
        key=(("chosen", "chosen"), ("holds", "goldfold's"), ("float", "other tools'")),
        bars=tuple(Bar(*at(p.size, p.upper), *at(p.size, p.loss), "stem") for p in points),
    )


def _named(dots: Sequence[Dot], labels: Sequence[str]) -> Iterable[Dot]:
    """Yields the dots, each with its label at the side where nothing is in the way; without it
    where both are taken."""
    taken = [(dot.x - 5, dot.x + 5, dot.y) for dot in dots]
    for dot, label in zip(dots, labels, strict=True):
        width = _LETTER * len(label)
        for side, low in (("start", dot.x + 9), ("end", dot.x - 9 - width)):
            inside = low > plots.LEFT and low + width < plots.WIDTH
            hit = any(a < low + width and low < b and abs(y - dot.y) < _NEAR[1]
                      for a, b, y in taken)  # fmt: skip
            if inside and not hit:
                taken.append((low, low + width, dot.y))
                yield replace(dot, label=label, side=side)
                break
        else:
            yield dot


def labelled(dots: Sequence[Dot], labels: Sequence[str]) -> Iterable[Dot]:
    """Yields the dots with their labels, without those labels that would overlap another."""
    taken: list[Dot] = []
    for dot, label in zip(dots, labels, strict=True):
        if any(abs(t.x - dot.x) < _NEAR[0] and abs(t.y - dot.y) < _NEAR[1] for t in taken):
            yield dot
            continue
        taken.append(dot)
        yield replace(dot, label=label, side="end" if dot.x > plots.WIDTH - 90 else "start")
