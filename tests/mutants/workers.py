"""Mutants in processes of their own: one that dies of a mutant loses that mutant alone."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.mutants import bases as soundness
from tests.mutants import drawing, stages
from tests.mutants.bases import Base
from tests.mutants.change import Change, Subject
from tests.mutants.drawing import Mutant


def prepare(room: Path, jobs: int, only: tuple[Base, ...] = soundness.ALL) -> tuple[Base, ...]:
    """Build every sound artifact that `room` lacks, so many models at a time; returns the bases."""
    found = soundness.settled(room, only)
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _begin, (room,), maxtasksperchild=1) as pool:
        models = dict.fromkeys(base.model for base in found)
        groups = [(m, [base for base in found if base.model == m]) for m in models]
        # The most work first.
        groups.sort(key=lambda group: -len(group[1]))
        pool.starmap(soundness.build, groups, chunksize=1)
    return found


def _begin(room: Path) -> None:
    os.environ["GOLDFOLD_CACHE"] = str(room / "cache")
    (room / "scratch").mkdir(parents=True, exist_ok=True)


@dataclass
class _Worker:
    process: Any
    connection: Connection
    seed: int | None = None
    since: float = 0.0


def run(
    seeds: Sequence[int], bases: tuple[Base, ...], room: Path, jobs: int, seconds: float
) -> Iterator[Mutant]:
    """Yields the mutants of `seeds` as they are done, until `seconds` are over; those under way
    then are finished."""
    context = multiprocessing.get_context("spawn")
    left, until = list(reversed(seeds)), time.monotonic() + seconds
    workers = [_start(context, bases, room) for _ in range(min(jobs, len(left)))]
    for worker in workers:
        _give(worker, left)
    try:
        while busy := [worker for worker in workers if worker.seed is not None]:
            for ready in wait([worker.connection for worker in busy]):
                worker = next(one for one in busy if one.connection is ready)
                seed = worker.seed
                assert seed is not None
                try:
                    yield worker.connection.recv()
                except EOFError:
                    worker.process.join()
                    yield _dead(seed, worker, bases)
                    workers[workers.index(worker)] = worker = _start(context, bases, room)
                if time.monotonic() > until:
                    left.clear()
                _give(worker, left)
    finally:
        for worker in workers:
            worker.connection.close()
            worker.process.join(30)
            if worker.process.is_alive():
                worker.process.terminate()


def _start(context: Any, bases: tuple[Base, ...], room: Path) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, bases, room), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, left: list[int]) -> None:
    worker.seed = left.pop() if left else None
    worker.since = time.perf_counter()
    if worker.seed is not None:
        worker.connection.send(worker.seed)


def _dead(seed: int, worker: _Worker, bases: tuple[Base, ...]) -> Mutant:
    said = f"the process ended with {worker.process.exitcode}"
    seconds = round(time.perf_counter() - worker.since, 2)
    kind, stage = drawing.kind_of(seed), drawing.stage_of(seed)
    name = drawing.base_of(seed, 0, bases).name
    return Mutant(seed, kind, stage, name, "not known", "", "crashed", said, seconds)


def _work(connection: Connection, bases: tuple[Base, ...], room: Path) -> None:
    _begin(room)
    while True:
        try:
            seed = connection.recv()
        except EOFError:
            return
        connection.send(drawing.draw(seed, bases, room / "scratch"))


def alarms(bases: tuple[Base, ...], room: Path, jobs: int) -> list[str]:
    """Seal every sound artifact anew, unchanged, and verify it with and without its model; returns
    what fails."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, _begin, (room,)) as pool:
        said = pool.starmap(_alarm, product(bases, ("model", "alone")), chunksize=2)
    return [one for one in said if one]


def _alarm(base: Base, stage: str) -> str:
    with tempfile.TemporaryDirectory(dir=base.room / "scratch") as scratch:
        outcome = stages.run(stage, "none", base, _nothing, Path(scratch))
    if outcome.how == "passed":
        return ""
    return f"{base.name}, {stage}: {outcome.how}: {outcome.said}"


def _nothing(subject: Subject) -> Change:
    return Change("nothing", "not a byte is changed")
