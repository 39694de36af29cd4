"""Torture: drawn inputs, damaged folders and strangers', poor surroundings, `kill -9`, and full
disks; which promises hold.

    .venv/bin/python -m tests.torture [--inputs 10000] [--damaged 200] [--kills 50]
        [--disks 8] [--places 20] [--real MODEL --artifacts FOLDER] [--seed 0] [--only PART ...]

Everything is drawn from the seed. A small EmbeddingGemma with random weights is built and exported
for OpenVINO and ONNX Runtime; docs/robustness.md says what is then done to it. Each thing happens
in a process of its own. Parts that are run replace their figures in tests/torture/torture.json
and leave the others'. The exit code is 1 if a promise breaks. Linux only.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tests.torture.tortures import cell, damaging, disk, environment, ground, inputs, kills

RESULTS = Path(__file__).with_name("torture.json")
PARTS = ("inputs", "real", "damaged", "kills", "disks", "places")
CHUNK = 2500
"""Inputs a process; the seed of each is its own."""


def prepare(room: Path) -> None:
    """The model, its artifacts, and those of another model."""

    def work() -> int:
        model = ground.build_model(room / "tiny")
        ground.build(model, room / "artifacts")
        ground.build(ground.build_model(room / "other", seed=8), room / "earlier")
        return 0

    outcome = cell.attempt(work, room, 900)
    if outcome.code:
        raise SystemExit(f"the ground cannot be laid: {outcome.err[-2000:]}")


def in_child(work: Callable[[], Any], room: Path, seconds: float) -> Any:
    """What `work` returns, as JSON, from a process of its own; or how that ended."""
    file = room / "result.json"
    file.unlink(missing_ok=True)

    def write() -> int:
        file.write_text(json.dumps(work()))
        return 0

    outcome = cell.attempt(write, room, seconds)
    if outcome.code or not file.exists():
        return {"errors": [f"ended with {outcome.code}: {outcome.err[-500:]}"]}
    return json.loads(file.read_text())


def run_inputs(
    artifacts: Path, room: Path, count: int, seed: int, real: bool, target: str
) -> dict[str, Any]:
    """Drawn inputs through one artifact, so many a process."""
    total: dict[str, Any] = asdict(inputs.Found())
    total["crashes"] = 0
    given: dict[str, Any] = {"size": 4, "threads": None, "repeats": 0.1} if real else {}
    shape = inputs.REAL if real else inputs.TINY
    folder = artifacts / f"{target}-fp32"
    strata = inputs.draw_strata if real else inputs.draw_lengths
    for chunk, start in enumerate(range(0, count, CHUNK)):
        rng = np.random.default_rng([seed, chunk])
        lengths = strata(rng, min(CHUNK, count - start), ground.LENGTH)
        work = partial(inputs.torture, folder, shape, lengths, seed * 1000 + chunk, **given)
        merge(total, in_child(lambda work=work: asdict(work()), room, 3600))
    return total


def merge(total: dict[str, Any], found: dict[str, Any]) -> None:
    """Add one process's figures to the others'."""
    total["crashes"] += "inputs" not in found
    total["errors"] += found["errors"]
    if "inputs" not in found:
        return
    if found["worst"] > total["worst"]:
        total["worst"], total["worst_at"] = found["worst"], found["worst_at"]
    for key in ("longest", "nearest"):
        total[key] = max(total[key], found[key])
    for key, value in found.items():
        if isinstance(value, int) and key != "longest":
            total[key] += value


def promises(results: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(promise, tried, worst, whether it holds) of every part that was run."""
    rows = []
    for part in ("inputs", "real"):
        for target, found in results.get(part, {}).items():
            kind = f"{target}, {'EmbeddingGemma-300M' if part == 'real' else 'small'}"
            tried = f"{found['inputs']:,} inputs, {found['batches']:,} batches"
            rows += [
                (f"{kind}: no NaN, no error, no crash", tried,
                 f"{found['not_finite']} NaN, {len(found['errors'])} errors",
                 not (found["not_finite"] or found["errors"] or found["not_unit"])),
                (f"{kind}: in a batch as alone", tried,
                 f"‖a−b‖ {found['worst']:.1e}, {found['nearest']:.2f} of its bound",
                 not found["beyond"]),
                (f"{kind}: the same bits twice", f"{found['repeated']:,} calls",
                 f"{found['unrepeated']} differ", not found["unrepeated"]),
            ]  # fmt: skip
    if found := results.get("damaged"):
        tried = f"{found['folders']} folders, {found['attempts']} commands"
        rows.append(
            ("damaged: refused in one line, nothing written", tried,
             f"{found['refused']} refused ({found['named_file']} name the file), "
             f"{found['accepted']} sound; {found['largest'] >> 20} MiB, {found['slowest']:.1f} s",
             not found["broken"])
        )  # fmt: skip
    if found := results.get("kills"):
        rows.append(
            ("kill -9: whole or refused, the next export works", f"{found['kills']} kills",
             f"{found['next_worked']} next exports worked", not found["broken"])
        )  # fmt: skip
    if found := results.get("places"):
        tried = f"{found['places']} places, {found['commands']} commands"
        rows.append(
            ("poor surroundings: works, or says in one line why not", tried,
             f"{found['worked']} worked, {found['refused']} refused; {found['largest'] >> 20} MiB "
             f"more than elsewhere, {found['slowest']:.1f} s",
             not found["broken"])
        )  # fmt: skip
    if found := results.get("disks"):
        rows.append(
            ("disk full: said so, the earlier artifact whole", f"{found['disks']} disks",
             found["skipped"] or f"{found['refused']} refused, {found['enough']} had room",
             not found["broken"])
        )  # fmt: skip
    return rows


def show(results: dict[str, Any]) -> bool:
    """Print the table and every promise that broke; whether all hold."""
    console = Console(width=150)
    table = Table("promise", "tried", "worst", "holds", title="Torture", title_justify="left")
    rows = promises(results)
    for promise, tried, worst, holds in rows:
        table.add_row(promise, tried, worst, "yes" if holds else "NO")
    console.print(table)
    for found in map(results.get, ("damaged", "kills", "disks", "places")):
        for line in (found or {}).get("broken", []):
            console.print(f"broken: {line}", markup=False, soft_wrap=True)
    for part in ("inputs", "real"):
        for target, found in results.get(part, {}).items():
            for line in found["errors"]:
                console.print(f"broken: {target}: {line}", markup=False, soft_wrap=True)
    return all(holds for *_, holds in rows)


def main(
    count: Annotated[int, typer.Option("--inputs", help="Drawn inputs of each artifact.")] = 10_000,
    damaged: Annotated[int, typer.Option(help="Damaged folders.")] = 300,
    killed: Annotated[int, typer.Option("--kills", help="Exports that are killed.")] = 50,
    disks: Annotated[int, typer.Option(help="Full disks for each target.")] = 8,
    places: Annotated[int, typer.Option(help="Poor surroundings.")] = 20,
    real: Annotated[
        Path | None, typer.Option(help="A real model; 200 inputs of its artifacts are drawn too.")
    ] = None,
    artifacts: Annotated[
        Path | None, typer.Option(help="Its artifacts, where they were exported already.")
    ] = None,
    real_inputs: Annotated[int, typer.Option(help="Drawn inputs of each real artifact.")] = 200,
    seed: Annotated[int, typer.Option(help="Everything is drawn from it.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Of the inputs' artifacts.")] = None,
    results_file: Annotated[Path, typer.Option("--json", help="The figures.")] = RESULTS,
) -> None:
    """Run the parts, print the table, write the figures; 1 if a promise breaks."""
    parts = tuple(only or PARTS)
    targets = tuple(target or ground.TARGETS)
    ground.load_all()
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        room = Path(name)
        if set(parts) - {"real"}:
            prepare(room)
        done = run(
            parts, room, targets, count, damaged, killed, disks, places, real, artifacts,
            real_inputs, seed,
        )  # fmt: skip
    known = json.loads(results_file.read_text()) if results_file.exists() else {}
    for part, found in done.items():
        # Of inputs a target's figures replace its own.
        known[part] = {**known.get(part, {}), **found} if part in ("inputs", "real") else found
    known["machine"] = {"machine": platform.machine(), "python": platform.python_version()}
    results_file.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    if not show(known):
        raise SystemExit(1)


def run(
    parts: tuple[str, ...],
    room: Path,
    targets: tuple[str, ...],
    count: int,
    damaged: int,
    killed: int,
    disks: int,
    places: int,
    real: Path | None,
    artifacts: Path | None,
    real_inputs: int,
    seed: int,
) -> dict[str, Any]:
    """The figures of every part that is asked for."""
    done: dict[str, Any] = {}
    tiny, made, earlier = room / "tiny", room / "artifacts", room / "earlier"
    if "inputs" in parts:
        done["inputs"] = {}
        for one in targets:
            found, seconds = timed(lambda one=one: run_inputs(made, room, count, seed, False, one))
            done["inputs"][one] = {**found, "seconds": seconds}
    if "real" in parts and (real is not None or artifacts is not None):
        if artifacts is None:
            artifacts = room / "real"
            cell.attempt(lambda: _export_real(real, room / "real"), room, 3600)
        done["real"] = {}
        for one in targets:
            found, seconds = timed(
                lambda one=one: run_inputs(artifacts, room, real_inputs, seed, True, one)
            )
            done["real"][one] = {**found, "seconds": seconds}
    if "damaged" in parts:
        harms = list(damaging.draw(damaged, seed))
        found, seconds = timed(lambda: damaging.torture(tiny, made, room / "d", harms))
        done["damaged"] = {**found.to_json(), "seconds": seconds}
    if "kills" in parts:
        found, seconds = timed(lambda: kills.torture(tiny, earlier, room / "k", killed, seed))
        done["kills"] = {**found.to_json(), "seconds": seconds}
    if "disks" in parts:
        found, seconds = timed(lambda: disk.torture(tiny, earlier, room / "f", disks, seed))
        done["disks"] = {**found.to_json(), "seconds": seconds}
    if "places" in parts:
        drawn = list(environment.draw(places, seed))
        found, seconds = timed(lambda: environment.torture(tiny, made, room / "e", drawn))
        done["places"] = {**found.to_json(), "seconds": seconds}
    return done


def _export_real(model: Path | None, out: Path) -> int:
    from goldfold import export

    return 0 if all(r.passed for r in export(str(model), ground.TARGETS, ("fp32",), out)) else 1


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.monotonic()
    return work(), round(time.monotonic() - start, 1)


if __name__ == "__main__":
    typer.run(main)
