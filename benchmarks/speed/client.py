"""Workers from outside: started in any environment, asked in turn, only one at work at a time."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from goldfold.exporter.system import clock

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")
LONG = 300.0
"""Milliseconds of a call before which no untimed one is needed."""


class WorkerError(Exception):
    """A side cannot be loaded, or cannot do what was asked."""


@dataclass(frozen=True)
class Spec:
    """How a side is called, the Python that runs it, and what its worker is told to load."""

    name: str
    python: Path
    load: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class Worker:
    """A side, loaded. A context manager: leaving it ends the process."""

    def __init__(self, spec: Spec, log: Path) -> None:
        self.spec = spec
        self._log = log.open("ab")
        # HF_HUB_OFFLINE: a peer must not ask a hub for what its folder holds.
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **spec.env}
        self._process = subprocess.Popen(
            [str(spec.python), str(WORKER), json.dumps(dict(spec.load))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=env, text=True,
        )  # fmt: skip
        try:
            self.load_s: float = self._answer()["load_s"]
        except WorkerError:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **asked: Any) -> dict[str, Any]:
        """The worker's answer. Raises WorkerError with the worker's sentence."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **asked}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.spec.name}: its process ended; see {self._log.name}")
        body = json.loads(line)
        if "error" in body:
            raise WorkerError(f"{self.spec.name}: {body['error']}")
        return body

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_all(stack: ExitStack, specs: Sequence[Spec], log: Path) -> tuple[list[Worker], list[str]]:
    """Workers of those that load, one after the other, and a sentence for each that does not."""
    workers: list[Worker] = []
    absent: list[str] = []
    for spec in specs:
        try:
            workers.append(stack.enter_context(Worker(spec, log)))
        except WorkerError as error:
            absent.append(str(error))
    return workers, absent


def interleave(
    workers: Sequence[Worker], asked: Mapping[str, Any], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of every timed call by side; sides take turns (exporter/system/clock.py)."""

    def side(worker: Worker) -> clock.Side:
        return lambda warm, calls: worker.ask("time", **asked, warm=warm, calls=calls)["ms"]

    times = clock.in_turn([side(worker) for worker in workers], rounds, seconds, LONG)
    return dict(zip((worker.spec.name for worker in workers), times, strict=True))
