"""The output of `goldfold export` and `verify` on their artifacts, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from goldfold.exporter.cli.console import one_line, open_console
from goldfold.exporter.errors import GateMissed, GoldfoldError
from goldfold.golden.errors import GoldenError

if TYPE_CHECKING:
    from goldfold.exporter.artifact.result import Result
    from goldfold.exporter.verification.several import Unverified


class Lost(NamedTuple):
    """A requested artifact that has no result."""

    name: str
    error: GoldfoldError | GoldenError
    known: Mapping[str, str] = {}
    """The fields that --json prints besides."""


def exported(
    run: Callable[[], list[Result]], as_json: bool, require_run: bool = False
) -> list[Result]:
    """Print the artifacts that an export built, and those that it could not build; the error is
    raised again. Raises GateMissed as `hold` does."""
    try:
        results = run()
    except GoldfoldError as error:
        if error.results or len(error.failures) > 1:
            lost = [
                Lost(one.name, one.error, {"target": one.target, "precision": one.precision})
                for one in error.failures
            ]
            show(error.results, as_json, lost, require_run)
        raise
    show(results, as_json, require_run=require_run)
    hold(results, require_run)
    return results


def verified(
    found: Sequence[Result | Unverified], as_json: bool, require_run: bool = False
) -> None:
    """Print the results of verifications. Raises the error of the highest code, or GateMissed."""
    from goldfold.exporter.artifact.result import Result

    results = [one for one in found if isinstance(one, Result)]
    lost = [
        Lost(one.path.name, one.error, {"path": str(one.path)})
        for one in found
        if not isinstance(one, Result)
    ]
    show(results, as_json, lost, require_run)
    if lost:
        raise max(lost, key=lambda one: one.error.code).error
    hold(results, require_run)


def show(
    results: Sequence[Result],
    as_json: bool,
    lost: Sequence[Lost] = (),
    require_run: bool = False,
) -> None:
    """Print the table, what stood in for proved artifacts, and the reasons of failures."""
    from goldfold.golden.report import Row, proofs, reasons, table

    console, log = open_console(), open_console(stderr=True)
    if as_json:
        entries = [*(_entry(one, require_run) for one in results), *map(_nothing, lost)]
        print(json.dumps(entries, indent=1, allow_nan=False))
        _say_unrecorded(results)
        _say_otherwise(results)
        _say_private(results)
        return
    rows = [
        Row(
            r.bundle.name,
            r.bundle.size,
            r.seconds,
            r.measurement,
            r.verdict,
            r.bundle.manifest.contract.task,
        )
        for r in results
    ]
    if rows:
        console.print(table(rows))
    for result in results:
        console.print(Text(str(result.path), "dim"), soft_wrap=True)
    for said in proofs(rows):
        console.print(Text(said), soft_wrap=True)
    for result in results:
        if result.unmeasured:
            console.print(Text(f"{result.bundle.name}: {result.unmeasured}"), soft_wrap=True)
    _say_losses(results)
    _say_unseen(results)
    for result in results:
        beside = result.bundle.verdict and result.bundle.verdict.outside
        if beside:
            console.print(Text(f"{result.bundle.name}: {beside.sentence}"), soft_wrap=True)
    if not all(r.passed for r in results):
        log.print(reasons(rows))
    for result in results:
        verdict = result.bundle.verdict
        if verdict is not None and verdict.location is not None:
            said = f"{result.bundle.name}: {verdict.location.sentence}"
            log.print(Text(said), soft_wrap=True)
    _say_unrecorded(results)
    _say_otherwise(results)
    _say_private(results)
    for one in lost if len(lost) > 1 else ():  # for one alone, the error says it
        log.print(Text(f"{one.name}: {one_line(str(one.error))}"), soft_wrap=True)


def hold(results: Sequence[Result], require_run: bool = False) -> None:
    """Raise GateMissed, naming them, if any artifact missed its gate; with `require_run`, also if
    one was proved and did not run here itself."""
    missed = [str(r.path) for r in results if not r.passed]
    unrun = [str(r.path) for r in results if r.status == "proved" and require_run]
    said = [f"missed the golden gate: {', '.join(missed)}"] if missed else []
    if unrun:
        said.append(f"--require-run: proved, but not run in its precision here: {', '.join(unrun)}")
    if said:
        raise GateMissed("; ".join(said))


def _entry(result: Result, require_run: bool = False) -> dict[str, Any]:
    from goldfold.exporter.records import finite
    from goldfold.golden.compare import summary

    missed = not result.passed or (require_run and result.status == "proved")
    return {
        "path": str(result.path),
        "target": result.bundle.manifest.target,
        "precision": result.bundle.manifest.precision,
        "bytes": result.bundle.size,
        "seconds": round(result.seconds, 3),
        "passed": result.passed,
        "status": result.status,
        "stand_in": result.verdict.stand_in,
        "not_run": result.verdict.not_run,
        "unmeasured": result.unmeasured,
        "code": GateMissed.code if missed else 0,
        "reasons": result.verdict.sentences,
        "texts": len(result.measurement.rows),
        "measurement": finite(summary(result.measurement)),
        "losses": _losses(result),
        "unseen": _unseen(result),
        "outside": _outside(result),
        "unrecorded": result.unrecorded,
        "otherwise": result.otherwise,
        "private": result.private,
    }


def _nothing(lost: Lost) -> dict[str, Any]:
    """Returns the same keys where there is no result."""
    keys = (
        "path",
        "target",
        "precision",
        "bytes",
        "seconds",
        "status",
        "stand_in",
        "not_run",
        "unmeasured",
        "texts",
        "measurement",
        "losses",
        "unseen",
        "outside",
        "unrecorded",
        "otherwise",
        "private",
    )
    said = {"passed": False, "code": lost.error.code, "reasons": [one_line(str(lost.error))]}
    return {**dict.fromkeys(keys), **said, **lost.known}


def _say_unrecorded(results: Sequence[Result]) -> None:
    for result in results:
        if result.unrecorded:
            open_console(stderr=True).print(
                Text(f"not recorded: {result.unrecorded}"), soft_wrap=True
            )


def _say_otherwise(results: Sequence[Result]) -> None:
    """Print, of each artifact, that its integers are rounded otherwise than in its verdict."""
    for result in results:
        if result.otherwise:
            open_console(stderr=True).print(Text(result.otherwise, "yellow"), soft_wrap=True)


def _say_private(results: Sequence[Result]) -> None:
    """Print, of each artifact, which private texts were not run again."""
    for result in results:
        if result.private:
            said = f"{result.bundle.name}: {result.private}"
            open_console(stderr=True).print(Text(said, "yellow"), soft_wrap=True)


def _losses(result: Result) -> dict[str, Any] | None:
    verdict = result.bundle.verdict
    lost = None if verdict is None else verdict.losses
    return None if lost is None else lost.plain()


def _say_losses(results: Sequence[Result]) -> None:
    """Print each quantized artifact's loss in retrieval, or that it was not judged; and what was
    left out."""
    from goldfold.exporter.verification.losses import UNJUDGED, sentence

    said = [(r.bundle.name, r.bundle.verdict and r.bundle.verdict.losses) for r in results]
    missing: dict[str, None] = {}
    for name, losses in said:
        if losses is not None:
            open_console().print(Text(f"{name}: {sentence(losses)}"), soft_wrap=True)
            missing |= dict.fromkeys(one for one in losses.missing if one != UNJUDGED)
    for reason in missing:
        open_console(stderr=True).print(Text(f"left out: {reason}"), soft_wrap=True)


def _unseen(result: Result) -> dict[str, Any] | None:
    verdict = result.bundle.verdict
    return None if verdict is None or verdict.unseen is None else verdict.unseen.plain()


def _outside(result: Result) -> dict[str, Any] | None:
    verdict = result.bundle.verdict
    return None if verdict is None or verdict.outside is None else verdict.outside.plain()


def _say_unseen(results: Sequence[Result]) -> None:
    """Print each artifact's figures over unseen texts, where they were measured, and what was
    measured in its place."""
    for result in results:
        found = result.bundle.verdict and result.bundle.verdict.unseen
        if found:
            open_console().print(Text(f"{result.bundle.name}: {found.sentence}"), soft_wrap=True)
        for said in found.missing if found else ():
            open_console(stderr=True).print(Text(f"unseen texts: {said}"), soft_wrap=True)
