"""The console output while goldfold works: one line per stage, live while it runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from goldfold.exporter.system.names import line, shown

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


class Plain(Console):
    """A console on which text is text: it reads no markup, and replaces characters that control a
    terminal. All of goldfold's output goes through it; coloured output is a `Text`."""

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print as rich's console does; with `soft_wrap` the output is one line, whatever the
        objects hold."""
        if soft_wrap:
            objects = tuple(map(_on_one_line, objects))
        super().print(*objects, soft_wrap=soft_wrap, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # rich's own moves of the cursor are control segments, which no text becomes.
            if segment.control is None and not segment.text.isprintable():
                segment = Segment(shown(segment.text), segment.style)
            yield segment


def open_console(stderr: bool = False) -> Console:
    """Returns a console on standard output or standard error."""
    _replace_what_lacks(sys.stderr if stderr else sys.stdout)
    console = Plain(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120  # a log has no edge, and rich's 80 would cut columns off the tables
    return console


def _on_one_line(printed: Any) -> Any:
    if isinstance(printed, Text):
        printed = printed.copy()
        printed.plain = _BREAKS.sub(" ", printed.plain)  # of the same length, so colours stay
    return _BREAKS.sub(" ", printed) if isinstance(printed, str) else printed


def _replace_what_lacks(stream: Any) -> None:
    """Make a stream replace the characters that its encoding lacks, instead of raising."""
    if getattr(stream, "errors", "") in ("strict", "surrogateescape"):
        with suppress(AttributeError, ValueError, OSError):  # a test may replace it
            stream.reconfigure(errors="replace")


def warn(message: str) -> None:
    """Print a warning on standard error, on one line."""
    open_console(stderr=True).print(Text(f"warning: {message}"), soft_wrap=True)


def one_line(message: str) -> str:
    """Returns a message on one line, without characters that control a terminal."""
    return line(message)


class Live:
    """A stages.Listener: a live line on a terminal, plain lines in a log."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, stage: str) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.close()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task(stage, total=None)
        self._progress.start()

    def detail(self, text: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=one_line(text))

    def step(self, done: int, total: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def end(self, stage: str, seconds: float, note: str) -> None:
        self.close()
        said = Text.assemble(("✓", "green"), f" {one_line(stage):<24} {seconds:6.1f} s")
        if note:
            said.append(f"  {one_line(note)}", "dim")
        self.console.print(said, soft_wrap=True)

    def fail(self, what: str, reason: str) -> None:
        self.close()
        line = Text.assemble(("✗", "red"), f" {what:<24}  {one_line(reason)}")
        self.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Stop the live line, if there is one."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def listening(quiet: bool) -> Iterator[Live | None]:
    """Yields a listener for stages, or None; its live line is stopped in every case."""
    live = None if quiet else Live(open_console(stderr=True))
    try:
        yield live
    finally:
        if live is not None:
            live.close()
