"""How much of the machine others used while something was timed: a figure beside every figure."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

LOUD = 0.03
"""The share of the processors from which a reader should be told: a core of thirty-two."""


class Watch:
    """Counts from its making. `others(pids)` is then the share of all processors' time that went
    to processes other than this one, `pids`, and what ended among its children. Linux."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy = _busy()
        self._own = _own(())

    def others(self, pids: Iterable[int]) -> float:
        """0 to 1. The processes of `pids` must have been started after this was made."""
        wall = (time.perf_counter() - self._started) * (os.cpu_count() or 1)
        foreign = (_busy() - self._busy) - (_own(pids) - self._own)
        return max(0.0, foreign / wall)


def _busy() -> float:
    """Seconds that all processors have worked, theft by a hypervisor included."""
    fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle, waiting = fields[3], fields[4]
    return (sum(fields[:8]) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _own(pids: Iterable[int]) -> float:
    """Seconds of this process, of its children that have ended, and of `pids`."""
    spent = sum(os.times()[:4])
    for pid in pids:
        # The name in parentheses may hold blanks; utime and stime are the 14th and 15th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent
