"""verdict.md: the verdict of a pipeline in Markdown, made to be posted on a pull request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from goldfold.exporter.records import Real, Record
from goldfold.exporter.report.limits import loss_of
from goldfold.exporter.report.pages import ArtifactFigures, Report
from goldfold.golden.gate import WORDS

MARK = "<!-- goldfold verdict -->"
"""The first line: a step that posts the file finds its earlier comment by it."""
_WORDS: Mapping[str, str] = {**WORDS}
_LONGEST = 300
_MOST = 20
"""Reasons that are shown of one artifact; report.html has them all."""


class Figure(Record, frozen=True, kw_only=True):
    """What the next run compares one artifact with."""

    state: str
    worst: Real | None = None
    mean: Real | None = None
    bytes: int = 0
    loss: Real | None = None


def figure_of(artifact: ArtifactFigures) -> Figure:
    """Returns the figures of an artifact that verdict.md shows."""
    judged = artifact.judged
    if judged is None:
        return Figure(state=artifact.state, bytes=artifact.bytes)
    loss = loss_of(artifact)
    return Figure(
        state=artifact.state,
        worst=Real(judged.larger),
        mean=Real(max(judged.mean, judged.mean_padded)),
        bytes=artifact.bytes,
        loss=None if loss is None else Real(loss),
    )


def verdict_page(
    report: Report,
    before: Mapping[str, Figure],
    kept: Sequence[str],
    notes: Sequence[str] = (),
) -> str:
    """Returns the verdict: one row an artifact, with its change since `before`, the last run's
    figures by artifact; then why artifacts failed, and notes."""
    count, good = len(report.artifacts), report.count("passed")
    said = f"{good} of {count} artifacts passed"
    if proved := report.count("proved"):
        said += f", {proved} proved by what stands for them"
    lines = [MARK, f"### goldfold: {WORDS[report.status]}", "", f"{said}.", ""]
    if report.models:
        lines += [f"{', '.join(map(_code, report.models))}, {report.quantity}.", ""]
    lines += ["| artifact | verdict | worst | mean | MB | loss in retrieval | since the last run |"]
    lines += ["|---|---|---:|---:|---:|---:|---|"]
    lines += [_row(one, before, kept) for one in report.artifacts]
    failed = [one for one in report.artifacts if one.state not in ("passed", "proved")]
    for one in failed:
        lines += ["", f"**{_code(one.folder)}**", ""]
        shown = one.reasons[-_MOST:] if one.state == "failed" else one.reasons[:_MOST]
        lines += [f"- {_code(reason)}" for reason in shown]
        if more := len(one.reasons) - len(shown):
            lines.append(f"- and {more} more: report.html has them.")
    proofs = [one for one in report.artifacts if one.state == "proved"]
    for one in proofs:
        said = f"{one.folder}: {one.not_run}; {one.stand_in} stood for it."
        lines += ["", _code(said)]
    lines += [line for note in notes for line in ("", _code(note))]
    lines += ["", f"goldfold {report.goldfold}; report.html, report.json and junit.xml say more."]
    return "\n".join(lines) + "\n"


def _row(one: ArtifactFigures, before: Mapping[str, Figure], kept: Sequence[str]) -> str:
    now = figure_of(one)
    name = one.folder.removesuffix(".failed")
    state = _WORDS.get(one.state, one.state.upper())
    cells = (
        _code(one.folder),
        f"{state} (kept)" if name in kept else state,
        _figure(now.worst),
        _figure(now.mean),
        f"{now.bytes / 1e6:.1f}" if now.bytes else "not built",
        "not judged" if now.loss is None else _share(now.loss),
        change(now, before.get(name)),
    )
    return f"| {' | '.join(cells)} |"


def change(now: Figure, before: Figure | None) -> str:
    """Returns what changed since the last run, in words."""
    if before is None:
        return "new"
    said = []
    if now.state != before.state:
        said.append(f"was {before.state}")
    for name in ("worst", "mean"):
        mine, other = getattr(now, name), getattr(before, name)
        if mine is not None and other is not None and mine != other:
            said.append(f"{name} {_figure(other)} → {_figure(mine)}")
    if now.bytes != before.bytes:
        said.append(f"{(now.bytes - before.bytes) / 1e6:+.1f} MB")
    if now.loss != before.loss and now.loss is not None and before.loss is not None:
        said.append(f"loss {_share(before.loss)} → {_share(now.loss)}")
    return "; ".join(said) or "the same"


def _figure(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.2e}" if math.isfinite(value) else "not finite"


def _share(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "not finite"


def _code(text: str) -> str:
    """Returns text as a code span: a golden text in it names nobody and links nowhere."""
    text = " ".join(text.replace("`", "'").replace("|", "\N{BROKEN BAR}").split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"`{text}`" if text else ""
