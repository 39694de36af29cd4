"""The record of the whole field as a picture: size against loss, and size against speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS, PEERS = "#b8860b", "#1f5fa8"
MARKS = {"OpenVINO": "o", "ONNX": "s", "llama.cpp": "^", "torch": "D"}
LEAST = 4.0
"""How many times its least value an axis reaches, at least."""
FLOOR = 1e-13
"""Losses below are drawn here: what is left is the last bit of the reference."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""


def draw(record: dict[str, Any], shape: str, file: Path) -> None:
    """Write a .png of two panels; the speeds are those at `shape`."""
    import matplotlib

    matplotlib.use("Agg")  # no display is needed to write a file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(15, 7.5), layout="constrained")
    rows = list(record["sides"].values())
    loss = [(r, r["size"] / 1e6, max(r["unseen"]["mean"], FLOOR)) for r in rows if r.get("unseen")]
    speed = [
        (r, r["size"] / 1e6, r["shapes"][shape]["median"]) for r in rows if shape in r["shapes"]
    ]
    axes[0].set_ylabel("mean 1−cos to the source in fp32, unseen texts (down is better)")
    axes[1].set_ylabel(f"milliseconds, {shape.replace('x', ' × ')} tokens (down is better)")
    for axis, points in zip(axes, (loss, speed), strict=True):
        axis.set_xscale("log")
        axis.set_yscale("log")
        _spread(axis.set_xlim, [x for _, x, _ in points])
        _spread(axis.set_ylim, [y for _, _, y in points])
        _plain(axis.xaxis)
        if axis is axes[1]:
            _plain(axis.yaxis)
        axis.set_xlabel("weights and graph, MB (left is better)")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2, which="both")
        for row, x, y in points:
            axis.plot(x, y, _mark(row["label"]), color=_colour(row), markersize=7)
    _legend(figure)
    threads = record["machine"]["threads"]
    plural = "" if threads == 1 else "s"
    figure.suptitle(f"{record['model']}, {threads} thread{plural} ({record['machine']['cpu']})")
    figure.canvas.draw()  # the places of points are known only now
    figure.set_layout_engine("none")
    for axis, points in zip(axes, (loss, speed), strict=True):
        _label(figure, axis, points)
    file.parent.mkdir(parents=True, exist_ok=True)
    # No date and no version: the same record gives the same bytes.
    figure.savefig(file, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _spread(limit: Any, values: Sequence[float]) -> None:
    """Limits of an axis that leave room for names, and do not blow a hair's breadth up."""
    if values:
        low, high = min(values), max(values)
        room = max((high / low) ** 0.15, (LEAST / (high / low)) ** 0.5)
        limit(low / room, high * room)


def _plain(axis: Any) -> None:
    """Numbers as they are written, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _mark(label: str) -> str:
    return next((mark for word, mark in MARKS.items() if label.startswith(word)), "v")


def _colour(row: dict[str, Any]) -> str:
    return OURS if row["ours"] else PEERS


def _legend(figure: Any) -> None:
    """Above the panels, where no point is."""
    from matplotlib.lines import Line2D

    words = {OURS: "goldfold", PEERS: "others"}
    dots = [Line2D([], [], marker="o", ls="", color=c, label=w) for c, w in words.items()]
    figure.legend(handles=dots, frameon=False, ncols=2, loc="outside upper right")


def _label(figure: Any, axis: Any, points: Sequence[tuple[dict[str, Any], float, float]]) -> None:
    """Put a name beside each point where no other name and no point is."""
    if not points:
        return
    at = [tuple(axis.transData.transform((x, y))) for _, x, y in points]
    texts = [
        axis.annotate(
            row["label"], (x, y), (0, 0), textcoords="offset pixels", fontsize=8,
            color=_colour(row), arrowprops={"arrowstyle": "-", "color": _colour(row), "lw": 0.5},
        )
        for row, x, y in points
    ]  # fmt: skip
    renderer = figure.canvas.get_renderer()
    sizes = []
    for text in texts:
        box = text.get_window_extent(renderer)
        # Without the arrow, which the extent of an annotation has in it.
        own = type(text).__mro__[1].get_window_extent(text, renderer)
        sizes.append((min(own.width, box.width), own.height))
    frame = axis.get_window_extent(renderer)
    inside = (frame.x0, frame.y0, frame.x1, frame.y1)
    for text, (x, y), place in zip(texts, at, places(at, sizes, inside), strict=True):
        text.set_position((place[0] - x, place[1] - y))


def places(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], inside: Box
) -> list[tuple[float, float]]:
    """The lower left corner of each label [pixels]: the nearest of many places round its point that
    lies inside and touches neither a point nor a label that was placed before."""
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    found = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        best: tuple[float, Box] | None = None
        for left, low in _round(x, y, width, height):
            box = (left, low, left + width, low + height)
            away = _away(box, x, y)
            cost = sum(_overlap(box, other) for other in taken) * 1e3 + away
            cost += 1e6 * (not _within(box, inside))
            if best is None or cost < best[0]:
                best = (cost, box)
        assert best is not None
        taken.append((best[1][0] - 2, best[1][1] - 1, best[1][2] + 2, best[1][3] + 1))
        found.append((best[1][0], best[1][1]))
    return found


def _round(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    """Corners of boxes right, left, above and below a point, the nearer ones first."""
    found = []
    for step in range(16):
        for side in (1, -1):
            for left in (x + 9, x - 9 - width, x - width / 2, x + 30, x - 30 - width):
                found.append((left, y - height / 2 + side * step * (height + 2) * 0.6))
    return found


def _away(box: Box, x: float, y: float) -> float:
    across = max(box[0] - x, 0.0, x - box[2])
    along = max(box[1] - y, 0.0, y - box[3])
    return (across**2 + along**2) ** 0.5


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    along = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, along)


def _within(box: Box, inside: Box) -> bool:
    return (
        inside[0] <= box[0] and inside[1] <= box[1] and box[2] <= inside[2] and box[3] <= inside[3]
    )
