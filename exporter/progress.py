"""Progress and durations: the one channel through which long work reports.

stages = Stages(listener)
with stages("tracing"):
    stages.detail("translating to ONNX")
    stages.step(3, 24)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from goldfold.exporter.records import Timing


class Listener(Protocol):
    """A receiver of progress. All methods are called from the thread that does the work.

    A listener may have one more method, `fail(what: str, reason: str)`: an artifact could not be
    built, while the others are built.
    """

    def begin(self, stage: str) -> None: ...
    def detail(self, text: str) -> None: ...
    def step(self, done: int, total: int) -> None: ...
    def end(self, stage: str, seconds: float, note: str) -> None: ...


class Silent:
    """A Listener that shows nothing."""

    def begin(self, stage: str) -> None:
        pass

    def detail(self, text: str) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def end(self, stage: str, seconds: float, note: str) -> None:
        pass


class Stages:
    """Times stages and passes on what happens in them."""

    def __init__(self, listener: Listener | None = None) -> None:
        self.listener: Listener = listener or Silent()
        self.timings: list[Timing] = []
        self._note = ""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        self._note = ""
        self.listener.begin(stage)
        yield
        seconds = time.perf_counter() - started
        self.timings.append(Timing(stage=stage, seconds=round(seconds, 3)))
        self.listener.end(stage, seconds, self._note)

    def detail(self, text: str) -> None:
        """Report the current step of a stage in words."""
        self.listener.detail(text)

    def step(self, done: int, total: int) -> None:
        """Report how many of the current stage's steps are done."""
        self.listener.step(done, total)

    def fail(self, what: str, reason: str) -> None:
        """Report that `what` failed and that the work goes on; for listeners that show failures."""
        show = getattr(self.listener, "fail", None)
        if show is not None:
            show(what, reason)

    def note(self, text: str) -> None:
        """Set the result of the current stage; it is shown when the stage ends."""
        self._note = text
