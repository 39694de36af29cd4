"""The mutation score: wrong artifacts, and how many of them an export or a verification refuses.

    .venv/bin/python -m benchmarks.mutants [--count 500] [--only SEED ...] [--jobs 2]
        [--minutes M] [--room FOLDER] [--json FILE] [--markdown FILE] [--before FILE]

Each mutant is drawn from its number, which says what is done (a row zeroed, a window one wider, ids
of a tokenizer exchanged), where (inside an export, between program and sealed artifact; or in a
finished folder whose digests are all made to fit, verified with the model at hand or alone), and to
which artifact, of small models of several families and of all-MiniLM-L6-v2. It is killed if the
export or `verify` misses its gate or ends in a GoldfoldError; any other error is not a verdict, and
counts as a survivor. A mutant that is provably the same function is listed apart, with the proof,
and another is drawn for it. At the end every sound artifact is sealed anew and verified with and
without its model: none may fail.

--only draws single mutants again. --room keeps the sound artifacts for another run. --before names
an earlier --json, whose score stands beside the new one. The exit code is 1 if a mutant survives or
a sound artifact fails.
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from tests.mutants import drawing, stages, workers
from tests.mutants.drawing import Mutant

COUNT = 500
_WHERE = {"writer": "in the export", "model": "stored, with model", "alone": "stored, alone"}


def main(
    count: Annotated[int, typer.Option(help="Wrong artifacts.")] = COUNT,
    only: Annotated[list[int] | None, typer.Option(help="Draw these numbers alone.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 2,
    minutes: Annotated[float, typer.Option(help="Draw none after so many minutes.")] = 24 * 60,
    room: Annotated[Path | None, typer.Option(help="Keep the sound artifacts here.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table here.")] = None,
    before: Annotated[Path | None, typer.Option(help="JSON of an earlier run.")] = None,
) -> None:
    """Draw mutants, run them, and print who survived."""
    console = Console(stderr=True)
    with ExitStack() as stack:
        place = room or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bases = workers.prepare(place.resolve(), jobs)
        console.print(f"{len(bases)} sound artifacts", highlight=False)
        found: list[Mutant] = []
        start = 0
        while wanted := only or _more(found, start, count):
            for mutant in workers.run(wanted, bases, place.resolve(), jobs, 60 * minutes):
                found.append(mutant)
                _show(console, mutant, len(found))
            start = max(wanted) + 1
            if only or len(found) < start:  # the minutes are over
                break
        alarms = [] if only else workers.alarms(bases, place.resolve(), jobs)
    found.sort(key=lambda mutant: mutant.seed)
    record = _record(found, alarms)
    earlier = None if before is None else harness.read(before)
    _print(Console(), found, alarms, record, earlier)
    harness.record(json_file, record)
    if markdown is not None:
        markdown.write_text(_markdown(record, earlier), encoding="utf-8")
    raise typer.Exit(int(bool(alarms) or any(_survived(mutant) for mutant in found)))


def _more(found: Sequence[Mutant], start: int, count: int) -> list[int]:
    """The next numbers: as many as wrong artifacts are lacking."""
    wrong = sum(not mutant.same for mutant in found)
    return list(range(start, start + count - wrong))


def _survived(mutant: Mutant) -> bool:
    return not mutant.same and not mutant.killed


def _show(console: Console, mutant: Mutant, number: int) -> None:
    word = "same" if mutant.same else mutant.how
    console.print(
        f"{number} {word} (seed {mutant.seed}, {mutant.kind}, {mutant.stage}, {mutant.artifact}, "
        f"{mutant.seconds:.0f} s) {mutant.what}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _record(found: Sequence[Mutant], alarms: Sequence[str]) -> dict[str, Any]:
    wrong = [mutant for mutant in found if not mutant.same]
    return {
        "drawn": len(found),
        "wrong": len(wrong),
        "killed": sum(mutant.killed for mutant in wrong),
        "false_alarms": list(alarms),
        "score": _score(wrong),
        "machine": {"processor": platform.machine(), "system": platform.system()},
        "seconds": round(sum(mutant.seconds for mutant in found)),
        "mutants": [mutant.plain() for mutant in found],
    }


def _score(wrong: Sequence[Mutant]) -> dict[str, dict[str, list[int]]]:
    """[killed, wrong] by kind and stage."""
    drawn = Counter((mutant.kind, mutant.stage) for mutant in wrong)
    killed = Counter((mutant.kind, mutant.stage) for mutant in wrong if mutant.killed)
    return {
        kind: {stage: [killed[kind, stage], drawn[kind, stage]] for stage in stages.STAGES}
        for kind in drawing.KINDS
        if any(drawn[kind, stage] for stage in stages.STAGES)
    }


def _rows(record: dict[str, Any], earlier: dict[str, Any] | None) -> list[list[str]]:
    """The table: kinds by stages, and a last row of all."""
    rows, score = [], record["score"]
    for kind, by_stage in score.items():
        rows.append([kind, *_cells(by_stage)])
        if earlier is not None:
            rows[-1].append(_total(earlier["score"].get(kind, {}).values()))
    whole = {
        stage: [sum(by[stage][place] for by in score.values()) for place in (0, 1)]
        for stage in stages.STAGES
    }
    rows.append(["all", *_cells(whole)])
    if earlier is not None:
        rows[-1].append(f"{earlier['killed']} of {earlier['wrong']}")
    return rows


def _cells(by_stage: dict[str, list[int]]) -> list[str]:
    cells = [f"{killed} of {drawn}" for killed, drawn in by_stage.values()]
    return [*cells, _total(by_stage.values())]


def _total(pairs: Any) -> str:
    pairs = list(pairs)
    return f"{sum(pair[0] for pair in pairs)} of {sum(pair[1] for pair in pairs)}"


def _heads(earlier: dict[str, Any] | None) -> list[str]:
    return ["kind", *_WHERE.values(), "killed", *(["before"] if earlier else [])]


def _print(
    console: Console,
    found: Sequence[Mutant],
    alarms: Sequence[str],
    record: dict[str, Any],
    earlier: dict[str, Any] | None,
) -> None:
    title = f"{record['killed']} of {record['wrong']} wrong artifacts killed"
    table = Table(title=title, title_justify="left")
    for place, head in enumerate(_heads(earlier)):
        table.add_column(head, justify="right" if place else "left")
    rows = _rows(record, earlier)
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    console.print(table)
    for words, chosen in (("the same function", True), ("survived", False)):
        listed = [m for m in found if (bool(m.same) if chosen else _survived(m))]
        if listed:
            console.print(f"{len(listed)} {words}:")
        for one in listed:
            why = one.same or f"{one.how}{one.said and f' ({one.said})'}"
            console.print(
                f"  --only {one.seed}: {one.kind}, {one.stage}, {one.artifact}: {one.what}: {why}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    for alarm in alarms:
        console.print(f"FALSE ALARM: {alarm}", highlight=False, markup=False)


def _markdown(record: dict[str, Any], earlier: dict[str, Any] | None) -> str:
    heads = _heads(earlier)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *_rows(record, earlier)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
