"""The report prints a judgement on the console as one table."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldfold.golden.judging.judge import Judgement


def table(name: str, judgement: Judgement) -> Table:
    """All figures of one artifact. "at most" is the upper end of the loss's 95 % interval."""
    shown = Table(title=Text(name), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("metric")
    for heading in ("dims", "n", "fp32", "artifact", "loss", "at most"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for metric in judgement.metrics:
        shown.add_row(
            metric.name,
            str(metric.dims),
            str(metric.count),
            f"{metric.reference:.4f}",
            f"{metric.artifact:.4f}",
            f"{metric.loss:.2%}",
            "" if metric.upper is None else f"{metric.upper:.2%}",
        )
    return shown
