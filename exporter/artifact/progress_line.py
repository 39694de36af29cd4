"""One line of progress on standard error: live on a terminal, every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TextIO

_LIVE, _LOG = 0.2, 10.0
"""Seconds between two lines on a terminal, and in a log."""


class ProgressLine:
    """Shows how many texts are done, of `total` where it is known. Called with the number; `close`
    removes a live line. Work that is shorter than one interval shows nothing."""

    def __init__(self, total: int | None = None, stream: TextIO | None = None) -> None:
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._live = bool(self._stream is not None and self._stream.isatty())
        self._began = self._last = time.monotonic()
        self._shown = 0

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < (_LIVE if self._live else _LOG):
            return
        self._last = now
        rate = done / max(now - self._began, 1e-9)
        said = f"{done} texts" if self._total is None else f"{done} of {self._total} texts"
        said += f", {rate:.0f} a second, {now - self._began:.0f} s"
        self._write(f"\r{said.ljust(self._shown)}" if self._live else f"{said}\n")
        self._shown = len(said)

    def close(self) -> None:
        """Remove a live line."""
        if self._live and self._shown:
            self._write(f"\r{' ' * self._shown}\r")
            self._shown = 0

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more
            self._stream.write(text)
            self._stream.flush()
