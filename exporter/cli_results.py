"""What `goldfold export` and `verify` print of their artifacts, and the exit code that follows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.text import Text

from exporter.console import open_console
from exporter.errors import GateMissed

if TYPE_CHECKING:
    from exporter.proving import Result


def show(results: list[Result], as_json: bool) -> None:
    """The table, the reasons of what failed, and GateMissed if anything did."""
    from golden.compare import summary
    from golden.report import Row, reasons, table

    console, log = open_console(), open_console(stderr=True)
    if as_json:
        print(
            json.dumps(
                [
                    {
                        "path": str(r.path),
                        "target": r.bundle.manifest.target,
                        "precision": r.bundle.manifest.precision,
                        "bytes": r.bundle.size,
                        "seconds": round(r.seconds, 3),
                        "passed": r.passed,
                        "reasons": r.verdict.reasons,
                        "measurement": summary(r.measurement),
                        "losses": _losses(r),
                        "unrecorded": r.unrecorded,
                    }
                    for r in results
                ],
                indent=1,
            )
        )
    else:
        rows = [
            Row(r.bundle.name, r.bundle.size, r.seconds, r.measurement, r.verdict) for r in results
        ]
        console.print(table(rows))
        for result in results:
            console.print(Text(str(result.path), "dim"), soft_wrap=True)
        _say_losses(results)
        if not all(r.passed for r in results):
            log.print(reasons(rows))
        for result in results:
            verdict = result.bundle.verdict
            if verdict is not None and verdict.location is not None:
                said = f"{result.bundle.name}: {verdict.location.sentence}"
                log.print(Text(said), soft_wrap=True)
    for result in results:
        if result.unrecorded:
            log.print(Text(f"not recorded: {result.unrecorded}"), soft_wrap=True)
    failed = [str(r.path) for r in results if not r.passed]
    if failed:
        raise GateMissed(f"missed the golden gate: {', '.join(failed)}")


def _losses(result: Result) -> dict[str, Any] | None:
    verdict = result.bundle.verdict
    lost = None if verdict is None else verdict.losses
    return None if lost is None else lost.model_dump(mode="json")


def _say_losses(results: list[Result]) -> None:
    """What each quantized artifact loses in retrieval, or that nobody looked; and what was left
    out."""
    from exporter.losses import UNJUDGED, sentence

    said = [(r.bundle.name, r.bundle.verdict and r.bundle.verdict.losses) for r in results]
    missing: dict[str, None] = {}
    for name, losses in said:
        if losses is not None:
            open_console().print(Text(f"{name}: {sentence(losses)}"), soft_wrap=True)
            missing |= dict.fromkeys(one for one in losses.missing if one != UNJUDGED)
    for reason in missing:
        open_console(stderr=True).print(Text(f"left out: {reason}"), soft_wrap=True)
