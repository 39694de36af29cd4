"""What the benchmarks share: turns, milliseconds, peak memory, records.

Each benchmark is started from the repository's root as a module: `python -m benchmarks.NAME`.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

T = TypeVar("T")

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def turn(sides: Sequence[T], place: int) -> list[T]:
    """The order of round `place`: each side begins as often as any other."""
    shift = place % len(sides)
    return [*sides[shift:], *sides[:shift]]


def in_turn(
    calls: Mapping[str, Callable[[], object]], rounds: int, warm: int
) -> dict[str, list[float]]:
    """Milliseconds of `rounds` calls of each side, one a turn, after `warm` untimed ones."""
    for call in calls.values():
        for _ in range(warm):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for place in range(rounds):
        for name in turn(list(calls), place):
            times[name].append(milliseconds(calls[name]))
    return times


def record(file: Path | None, body: object) -> None:
    """Write JSON where a file is named."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def read(file: Path) -> Any:
    """Returns what `record` wrote."""
    return json.loads(file.read_text(encoding="utf-8"))


def resident(process: str) -> int:
    """kB resident now, of a process and of those it started."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        started = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    found = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
    return sum(found) + sum(map(resident, started))


class Meter:
    """A stages.Listener that notes the peak resident memory of every stage. Linux."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._greatest = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._greatest = max(self._greatest, resident(str(os.getpid())))
            time.sleep(0.05)

    def begin(self, stage: str) -> None:
        CLEAR.write_text("5")  # resets VmHWM to what is resident now
        self._greatest = 0

    def detail(self, text: str) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def end(self, stage: str, seconds: float, note: str) -> None:
        own = next(
            int(line.split()[1])
            for line in STATUS.read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        peak = max(own, self._greatest)
        row = {"stage": stage, "seconds": round(seconds, 2), "peak_gb": round(peak * 1024 / 1e9, 2)}
        self.rows.append(row)
        Console(stderr=True).print(f"{stage}: {seconds:.1f} s", highlight=False)


def processor() -> str:
    """Returns the processor's name, or the machine's kind where /proc/cpuinfo has none."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
