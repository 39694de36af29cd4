"""The name of this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path


def name() -> str:
    """Returns the processor's name as its maker gives it; its architecture where none is known."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
