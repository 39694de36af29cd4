"""Latency: timed calls, sides that take turns, and the processor time that other processes used
during the timing. The caller chooses the statistic."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Side = Callable[[int, int], Sequence[float]]
"""(warm, calls) → milliseconds of each of `calls` calls, after `warm` untimed ones."""


def timed(call: Callable[[], Any], warm: int, calls: int, seconds: float = 0.0) -> list[float]:
    """Returns milliseconds of each of `calls` calls, after `warm` untimed ones; of more calls if
    these take less than `seconds` together."""
    for _ in range(warm):
        call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < calls or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    return times


def in_turn(
    sides: Sequence[Side], rounds: int, seconds: float, long: float = float("inf")
) -> list[list[float]]:
    """Returns milliseconds of every timed call by side; sides take turns, in another order each
    round.

    A first call measures how long one takes; from that follows how many calls make a turn of
    `seconds / rounds`. A turn begins with an untimed call, since the other sides have used the
    caches; in a call of `long` milliseconds the caches fill many times over anyway.
    """
    turns = []
    for side in sides:
        first = side(1, 1)[0]  # after an untimed call, which may build what later ones use
        turns.append((int(first < long), max(1, round(1e3 * seconds / rounds / first))))
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds):
        for step in range(len(sides)):
            index = (turn + step) % len(sides)
            times[index] += sides[index](*turns[index])
    return times


class Others:
    """A counter of the processor time that other processes use from its creation on. Linux only;
    elsewhere the time is unknown."""

    def __init__(self) -> None:
        self._wall, self._busy, self._own = time.perf_counter(), _busy(), _own(())

    def share(self, pids: Iterable[int] = ()) -> float | None:
        """Returns the share, 0 to 1, of all processors' time that others used: without this
        process, its children that have ended, and `pids`, which must have started after this
        counter was made."""
        now = _busy()
        if now is None or self._busy is None:
            return None
        wall = (time.perf_counter() - self._wall) * (os.cpu_count() or 1)
        foreign = (now - self._busy) - (_own(pids) - self._own)
        return min(1.0, max(0.0, foreign / wall))


def _busy() -> float | None:
    """Returns the seconds that all processors have worked, including what a hypervisor took."""
    try:
        line = Path("/proc/stat").read_text("utf-8").splitlines()[0]
    except OSError:
        return None
    fields = [int(x) for x in line.split()[1:9]]
    idle, waiting = fields[3], fields[4]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _own(pids: Iterable[int]) -> float:
    """Returns the processor seconds of this process, of its children that have ended, and of
    `pids`."""
    spent = sum(os.times()[:4])
    for pid in pids:
        # The name in parentheses may hold blanks; utime and stime are the 14th and 15th field.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent
