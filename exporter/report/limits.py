"""Limits of a pipeline: artifacts of a report are held to what goldfold.toml allows them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from goldfold.exporter.report.pages import ArtifactFigures, Report
from goldfold.exporter.report.pipeline_file import Limits, LimitTable
from goldfold.golden.gate import Status
from goldfold.golden.metrics import RETRIEVAL


def held(report: Report, limits: LimitTable, require_run: bool = False) -> Report:
    """Returns the report with every artifact failed that exceeds a limit, and the reasons; with
    `require_run`, also those that were proved and did not run here."""
    found = tuple(_held(one, limits, require_run) for one in report.artifacts)
    return report.with_(artifacts=found, status=status_of(found))


def status_of(artifacts: tuple[ArtifactFigures, ...]) -> Status:
    """Returns the status of all: see Report.status."""
    states = {one.state for one in artifacts}
    if not states <= {"passed", "proved"}:
        return "failed"
    return "proved" if "proved" in states else "passed"


def _held(artifact: ArtifactFigures, limits: LimitTable, require_run: bool) -> ArtifactFigures:
    said = tuple(exceeded(artifact, limits.of(artifact.target, artifact.precision)))
    if require_run and artifact.state == "proved":
        said += (f"It was proved and did not run here in its precision: {artifact.not_run}.",)
    if not said:
        return artifact
    # A stand-in belongs to a proved artifact; a failed one says what failed.
    return artifact.with_(state="failed", reasons=(*artifact.reasons, *said))


def exceeded(artifact: ArtifactFigures, limits: Limits) -> Iterator[str]:
    """Yields, in a sentence each, the limits that an artifact exceeds, and those that cannot be
    held because nothing was measured. An artifact without figures has failed already."""
    judged = artifact.judged
    if judged is None:
        return
    mean = max(judged.mean, judged.mean_padded)
    figures = {"worst": judged.larger, "mean": mean, "size_mb": artifact.bytes / 1e6}
    for name, figure in figures.items():
        most = getattr(limits, name)
        if most is not None and not figure <= most:  # NaN exceeds every limit
            yield f"limits.{name}: {_number(figure)} exceeds {_number(most)}."
    if limits.loss is None or artifact.losses is None:
        return
    found = loss_of(artifact)
    if found is None:
        yield "limits.loss: retrieval was not judged; judge = true does that at an export."
    elif not found <= limits.loss:
        yield f"limits.loss: retrieval may lose {_number(found)}, which exceeds {limits.loss:g}."


def loss_of(artifact: ArtifactFigures) -> float | None:
    """Returns the upper bound of the loss in retrieval, at the size that loses most; None where
    nothing was judged."""
    if artifact.losses is None or artifact.losses.judged is None:
        return None
    uppers = [one.upper for one in artifact.losses.figures if one.name == RETRIEVAL]
    found = [math.inf if upper is None else float(upper) for upper in uppers]
    return max(found, default=None)


def _number(figure: float) -> str:
    return f"{figure:.3g}" if math.isfinite(figure) else "a figure that is not finite"
