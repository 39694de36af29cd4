"""Plots of one artifact's interior: the drift after every layer, and fp16's headroom."""

from __future__ import annotations

import math

from goldfold.exporter.passes.scale_residual import FP16_MAX
from goldfold.exporter.report import plots
from goldfold.exporter.report.pages import ArtifactFigures
from goldfold.exporter.report.plots import Axis, Bar, Dot, Plot, Rule, Tick

LEFT = 142
"""Pixels for the names of kinds."""


def layers(artifact: ArtifactFigures) -> Plot | None:
    """Plots the worst of a few texts after every layer, where the export was asked for it."""
    found = artifact.layers
    if len(found) < 2:
        return None
    finite = [step.worst for step in found if math.isfinite(step.worst)]
    y = plots.decades(artifact.quantity, finite or [1.0])
    x = Axis("layer", 0.0, len(found) - 1.0, False, ())
    dots = tuple(
        Dot(
            plots.x_of(0.02 + 0.96 * x.at(index)),
            plots.y_of(y.at(min(step.worst, y.high))),
            "w-alone" + ("" if math.isfinite(step.worst) else " bad"),
            f"after {step.layer}: "
            + (
                f"{artifact.quantity} {step.worst:.1e}"
                if math.isfinite(step.worst)
                else "not finite"
            )
            + f" ({step.worst_id})",
        )
        for index, step in enumerate(found)
    )
    every = max(1, round(len(found) / 12))
    numbers = tuple(
        Tick(dot.x, step.layer.rpartition(".")[2] if "." in step.layer else "out")
        for index, (dot, step) in enumerate(zip(dots, found, strict=True))
        if index % every == 0 or "." not in step.layer
    )
    rounded = "" if artifact.emulated is None else ", every value rounded in emulation"
    return Plot(
        "Drift by layer",
        f"The artifact's program{rounded}, against the source model in torch: what leaves each"
        " layer, and the embedding (out) against its golden; the worst of a few short texts.",
        x.title,
        y.title,
        numbers,
        plots.y_ticks(y),
        dots,
        path="M" + "L".join(f"{dot.x},{dot.y}" for dot in dots),
    )


def headroom(artifact: ArtifactFigures) -> Plot | None:
    """Plots the largest value of every kind, in fp32 and as the artifact computes it, against
    65,504."""
    rows = [row for row in artifact.ranges if row.peak > 0]
    if not rows:
        return None
    finite = [
        value
        for row in rows
        for value in (row.peak, row.scaled, row.bound)
        if value and math.isfinite(value)
    ]
    x = plots.decades("largest magnitude", [*finite, FP16_MAX])
    step = (plots.HEIGHT - plots.TOP - plots.BOTTOM) / len(rows)
    dots, bars, names = [], [], []
    for index, row in enumerate(rows):
        y = round(plots.TOP + (index + 0.5) * step, 1)
        names.append(Tick(y, row.kind))
        peak, scaled = (min(max(v, x.low), x.high) for v in (row.peak, row.scaled))
        at = {v: plots.x_of(x.at(v), LEFT) for v in (x.low, peak, scaled)}
        bars.append(Bar(at[x.low], y, at[scaled], y, "stem"))
        said = f"{row.kind}: {_number(row.peak)} at {row.at}, the largest of {row.values}"
        if scaled != peak:
            bars.append(Bar(at[scaled], y, at[peak], y, "moved"))
            dots.append(Dot(at[peak], y, "w-padded", f"{said}, before scale-residual"))
            said = f"{row.kind}: {_number(row.scaled)} behind scale-residual"
        over = math.isinf(row.scaled) or (row.half and row.scaled > FP16_MAX)
        kept = "" if row.half else "; kept in f32"
        if row.bound is not None:
            by = f"{row.calibrated} by calibration alone" if row.calibrated else "proved"
            kept += f"; for every text at most {_number(row.bound)} in fp16, {by}"
            edge = plots.x_of(x.at(min(max(row.bound, x.low), x.high)), LEFT)
            dots.append(Dot(edge, y, "bad" if row.calibrated else "w-bound", said + kept))
        style = "bad" if over else "w-alone" if row.half else "w-wide"
        dots.append(Dot(at[scaled], y, style, said + kept, radius=4.0))
    end = Rule(0.0, "fp16 ends: 65,504", plots.x_of(x.at(FP16_MAX), LEFT))
    typed = any(not row.half for row in rows)
    key = [("w-alone", "computed in fp16" if typed else "as computed")]
    key += [("w-wide", "kept in f32")] if typed else []
    bounded = any(row.bound is not None for row in rows)
    key += [("w-bound", "for every text")] if bounded else []
    key += (
        [("w-padded", "before scale-residual")] if any(d.style == "w-padded" for d in dots) else []
    )
    return Plot(
        "fp16 headroom by kind of value",
        "On calibration texts, and bounds for every text. Attention's scores are a bound: |q| |k|.",
        x.title,
        "",
        tuple(Tick(plots.x_of(x.at(value), LEFT), label) for value, label in x.ticks),
        tuple(names),
        tuple(dots),
        rules=(end,),
        key=tuple(key),
        bars=tuple(bars),
        left=LEFT,
    )


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2g}"
