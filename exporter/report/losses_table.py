"""The retrieval-loss table: the losses of each quantized artifact, as rows of one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from goldfold.exporter.records import Loss
from goldfold.exporter.report.pages import ArtifactFigures, Report
from goldfold.golden.judging.judge import RANKS
from goldfold.golden.metrics import RETRIEVAL

NAMES = (*RANKS, "Lee corpus, Pearson", "Lee corpus, Spearman", RETRIEVAL)
"""The possible columns, in order; the last has a limit."""


@dataclass(frozen=True)
class Cell:
    """One figure: the artifact's score, its loss, and whether that is over the limit."""

    score: str
    lost: str
    over: bool


@dataclass(frozen=True)
class Row:
    """One artifact at one embedding size. A cell is None where nothing was measured."""

    folder: str
    dims: int
    cells: tuple[Cell | None, ...]
    limit: str
    judged: str | None


def columns(report: Report) -> list[str]:
    """Returns those of NAMES that were measured for any artifact."""
    every = [artifact.losses for artifact in report.artifacts if artifact.losses is not None]
    measured = {one.name for losses in every for one in losses.figures}
    return [name for name in NAMES if name in measured]


def rows(report: Report) -> list[Row]:
    """Returns every quantized artifact at every embedding size that was measured, with one cell per
    column."""
    names = columns(report)
    return [row for artifact in report.artifacts for row in _rows(artifact, names)]


def said(report: Report) -> list[str]:
    """Returns what was not measured, or was judged in an artifact's place, each once."""
    losses = [artifact.losses for artifact in report.artifacts if artifact.losses is not None]
    every = [(one.unusable, *one.missing) if one.unusable else one.missing for one in losses]
    return list(dict.fromkeys(f"{one.rstrip('.')}." for missing in every for one in missing))


def _rows(artifact: ArtifactFigures, names: Sequence[str]) -> Iterator[Row]:
    losses = artifact.losses
    if losses is None:
        return
    found = {(one.dims, one.name): one for one in losses.figures}
    limit = "none" if losses.limit is None else f"{losses.limit:.2%}"
    for dims in dict.fromkeys(one.dims for one in losses.figures):
        cells = tuple(
            _cell(found.get((dims, name)), losses.limit if name == RETRIEVAL else None)
            for name in names
        )
        yield Row(artifact.folder, dims, cells, limit, losses.judged)


def _cell(one: Loss | None, limit: float | None) -> Cell | None:
    if one is None:
        return None
    loss, upper = map(_share, (one.loss, one.upper))
    over = limit is not None and (one.upper is None or one.upper > limit)
    return Cell(f"{one.artifact:.4f}", f"loses {loss}, at most {upper}", over)


def _share(value: float | None) -> str:
    return f"{value:.2%}" if value is not None and math.isfinite(value) else "not finite"
