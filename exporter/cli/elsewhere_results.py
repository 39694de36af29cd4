"""The output of `goldfold verify --in`: a table of places, their reasons, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldfold.exporter.cli.console import one_line, open_console
from goldfold.exporter.errors import GateMissed

if TYPE_CHECKING:
    from goldfold.exporter.verification.elsewhere import Ran

_STYLES = {"passed": "bold green", "failed": "bold red", "not run": "bold yellow"}
_WORDS = {"passed": "PASS", "failed": "FAIL", "not run": "NOT RUN"}


def ran_elsewhere(found: Sequence[Ran], as_json: bool, require_run: bool) -> None:
    """Print what ran in other programs. Raises GateMissed for a missed gate, and with `require_run`
    for a place that is not there."""
    if as_json:
        entries = [_entry(one, require_run) for one in found]
        print(json.dumps(entries, indent=1, allow_nan=False))
    else:
        _show(found)
    missed = [one.name for one in found if one.status == "failed"]
    unrun = [one.name for one in found if one.status == "not run" and require_run]
    said = [f"missed the golden gate: {', '.join(missed)}"] if missed else []
    if unrun:
        said.append(f"--require-run: not run: {', '.join(unrun)}")
    if said:
        raise GateMissed("; ".join(said))


def _show(found: Sequence[Ran]) -> None:
    from goldfold.golden.report import human_size
    from goldfold.golden.tasks import EMBEDDING, QUANTITY

    console, log = open_console(), open_console(stderr=True)
    table = Table(
        title=f"{QUANTITY[EMBEDDING]} against the fp32 reference, in other programs",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for heading in ("artifact", "in"):
        table.add_column(heading, no_wrap=True)
    for heading in ("threads", "worst", "padded", "mean", "texts", "s", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for one in found:
        m, none = one.measurement, "none"
        figures = [none] * 5
        if m is not None:
            figures = [f"{m.worst:.1e}", f"{m.worst_padded:.1e}", f"{m.mean:.1e}"]
            figures += [str(len(m.rows)), f"{one.seconds:.0f}"]
        table.add_row(
            Text(one_line(one.bundle.name)),
            one.place,
            none if one.threads is None else str(one.threads),
            *figures,
            none if one.peak is None else human_size(one.peak),
            Text(_WORDS[one.status], _STYLES[one.status]),
        )
    console.print(table)
    for said in dict.fromkeys(_program(one) for one in found if one.facts.get("version")):
        console.print(Text(said, "dim"), soft_wrap=True)
    for one in found:
        if one.status == "not run":
            log.print(Text(f"{one.name}: not run: {one_line(one.not_run)}"), soft_wrap=True)
        for note in one.facts.get("notes", ()):
            log.print(Text(f"{one.name}: {one_line(str(note))}"), soft_wrap=True)
        if one.verdict is not None and not one.verdict.passed:
            for sentence in one.verdict.sentences[:10]:
                log.print(Text(f"{one.name}: {one_line(sentence)}"), soft_wrap=True)


def _program(one: Ran) -> str:
    engine = one_line(str(one.facts.get("engine", "")))
    return f"{one.place}: {engine}; ONNX Runtime Web {one_line(str(one.facts['version']))}"


def _entry(one: Ran, require_run: bool) -> dict[str, Any]:
    from goldfold.exporter.records import finite
    from goldfold.golden.compare import summary

    manifest, facts = one.bundle.manifest, one.facts
    missed = one.status == "failed" or (require_run and one.status == "not run")
    return {
        "path": str(one.path),
        "target": manifest.target,
        "precision": manifest.precision,
        "bytes": one.bundle.size,
        "in": one.place,
        "threads": one.threads,
        "backend": facts.get("backend"),
        "engine": facts.get("engine"),
        "runtime": facts.get("version"),
        "canaries": finite(facts.get("canaries")),
        "notes": list(facts.get("notes", ())),
        "open_seconds": facts.get("seconds"),
        "seconds": round(one.seconds, 3),
        "peak_bytes": one.peak,
        "passed": one.status == "passed",
        "status": one.status,
        "not_run": one.not_run,
        "code": GateMissed.code if missed else 0,
        "reasons": () if one.verdict is None else one.verdict.sentences,
        "texts": 0 if one.measurement is None else len(one.measurement.rows),
        "measurement": None if one.measurement is None else finite(summary(one.measurement)),
    }
