"""The page report.html, which needs no other file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact.bounded import bound_of
from goldfold.exporter.report import artifact_plots, losses_table, pareto, plots
from goldfold.exporter.report.pages import ArtifactFigures, Report
from goldfold.exporter.system.names import shown
from goldfold.golden.gate import WORDS
from goldfold.golden.report import human_size

TEMPLATE = "page.html.jinja"


def page(report: Report) -> str:
    """Returns the report as HTML: styles and pictures inside, no script, nothing fetched."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # ids, texts and reasons come from models and goldens
        finalize=lambda value: shown(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": human_size,
        "figure": _figure,
        "power": _power,
        "magnitude": bound_of,
    }
    return environment.get_template(TEMPLATE).render(
        report=report,
        words=WORDS | {"unbuilt": "not built"},
        known=[a for a in report.artifacts if a.name],
        overview=pareto.pictures(report),
        best=pareto.front(report),
        speeds=_speeds(report),
        pictures={a.folder: _pictures(a) for a in report.artifacts},
        refusals=_refusals(report),
        passes=_passes(report),
        versions=_versions(report),
        box=plots,
        felt=losses_table.rows(report),
        felt_names=losses_table.columns(report),
        felt_said=losses_table.said(report),
    )


def _pictures(artifact: ArtifactFigures) -> list[plots.Plot]:
    drawn = (
        plots.by_length(artifact),
        plots.similarities(artifact),
        plots.drift(artifact),
        artifact_plots.layers(artifact),
        artifact_plots.headroom(artifact),
    )
    return [plot for plot in drawn if plot is not None]


def _speeds(report: Report) -> list[str]:
    """Returns the machine of each latency measurement, and the artifacts timed there in turn, each
    once."""
    said: dict[str, None] = {}
    for speed in (a.speed for a in report.artifacts if a.speed is not None):
        threads = (
            "threads as each runtime chooses"
            if speed.threads is None
            else (f"{speed.threads} threads")
        )
        busy = (
            ""
            if speed.others is None
            else (f"; other work took {speed.others:.0%} of the processors")
        )
        turns = ", ".join(speed.beside)
        said[
            f"Timed {speed.taken} on {speed.cpu}, {speed.processors} processors, {threads}{busy};"
            f" in turn: {turns}."
        ] = None
    return list(said)


def _refusals(report: Report) -> dict[str, list[str]]:
    """Returns each refusal once, with the artifacts in which it happened."""
    found: dict[str, list[str]] = {}
    for artifact in report.artifacts:
        for done in artifact.passes:
            for refusal in done.refused:
                where = found.setdefault(refusal, [])
                if artifact.folder not in where:
                    where.append(artifact.folder)
    return found


def _passes(report: Report) -> list[tuple[str, str, list[int | None]]]:
    """Returns (pass, equality, its number of applications in each known artifact; None where it did
    not run)."""
    known = [artifact for artifact in report.artifacts if artifact.name]
    rows: dict[str, str] = {}
    for artifact in known:
        rows |= {done.name: done.equality for done in artifact.passes}
    return [
        (name, equality, [_applied(artifact, name) for artifact in known])
        for name, equality in rows.items()
    ]


def _applied(artifact: ArtifactFigures, name: str) -> int | None:
    counts = [done.applied for done in artifact.passes if done.name == name]
    return sum(counts) if counts else None


def _versions(report: Report) -> dict[str, list[str]]:
    """Returns every package's version; more than one where the artifacts differ."""
    found: dict[str, list[str]] = {}
    for artifact in report.artifacts:
        own = {"goldfold": artifact.goldfold, **artifact.versions} if artifact.name else {}
        for name, version in own.items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return dict(sorted(found.items()))


def _figure(value: Any) -> str:
    """Returns 1−cos for a table."""
    return f"{value:.1e}" if value is not None and math.isfinite(value) else "not finite"


def _power(value: float) -> str:
    return plots.power(value)
