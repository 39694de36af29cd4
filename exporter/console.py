"""What a person sees while goldfold works: one line a stage, live while it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text


def open_console(stderr: bool = False) -> Console:
    """A console on standard output or standard error."""
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120  # a log has no edge, and rich's 80 would cut columns off the tables
    return console


def one_line(message: str) -> str:
    """A message on one line, without what could steer a terminal."""
    joined = " ".join(line.strip() for line in message.splitlines())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in joined)


class Live:
    """A stages.Listener: a moving line on a terminal, plain lines in a log."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def begin(self, stage: str) -> None:
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
            self._progress.update(self._task, description=text)

    def step(self, done: int, total: int) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def end(self, stage: str, seconds: float, note: str) -> None:
        self.close()
        line = Text.assemble(("✓", "green"), f" {stage:<24} {seconds:6.1f} s")
        if note:
            line.append(f"  {note}", "dim")
        self.console.print(line, soft_wrap=True)

    def fail(self, what: str, reason: str) -> None:
        self.close()
        line = Text.assemble(("✗", "red"), f" {what:<24}  {one_line(reason)}")
        self.console.print(line, soft_wrap=True)

    def close(self) -> None:
        """Stop the moving line, if one is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def listening(quiet: bool) -> Iterator[Live | None]:
    """A listener for stages, or None; its moving line is stopped whatever happens."""
    live = None if quiet else Live(open_console(stderr=True))
    try:
        yield live
    finally:
        if live is not None:
            live.close()
