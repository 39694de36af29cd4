"""Streams: any number of texts in, their results out, and one window of texts in memory at a time.

A window has at most `window` texts and LETTERS letters. Its texts are sorted by length, computed,
and given in their order before the next text is read, so that memory does not grow with the stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from threading import Event
from typing import Any, TypeVar

from goldfold.exporter.errors import TextError, UsageError

WINDOW = 1 << 13
"""Number of texts that are sorted by length, and held as tokens, at a time."""
LETTERS = 1 << 22
"""Number of letters of them, so that long texts do not fill memory: 4,194,304 are a million tokens
of ordinary text."""

T = TypeVar("T")
R = TypeVar("R")
Tick = Callable[[int], None]
"""Is told how many texts more are done."""


def letters(item: Any) -> int:
    """Returns the number of letters of a text, or of a pair of texts."""
    return len(item) if isinstance(item, str) else sum(map(len, item))


def windows(items: Iterable[T], window: int | None = None) -> Iterator[list[T]]:
    """Yields the items in order, in runs of at most `window` (WINDOW by default) and LETTERS; a
    longer text alone."""
    window = WINDOW if window is None else window
    some: list[T] = []
    held = 0
    for item in items:
        size = letters(item)
        if some and (len(some) == window or held + size > LETTERS):
            yield some
            some, held = [], 0
        some.append(item)
        held += size
        if len(some) == window:  # given before the source is asked for one more
            yield some
            some, held = [], 0
    if some:
        yield some


@dataclass(frozen=True)
class Flow:
    """How a stream is read: the most texts of a window; `progress`, told the number of texts done
    after every batch; and an event that ends it."""

    window: int = WINDOW
    progress: Callable[[int], None] | None = None
    cancel: Event | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.window, int) and not isinstance(self.window, bool)
        if not whole or self.window < 1:
            raise UsageError(f"window is {self.window!r}; it must be a whole number from 1")

    def through(
        self,
        items: Iterable[T],
        check: Callable[[T, int], R],
        compute: Callable[[list[R], int, Tick], Any],
    ) -> Iterator[Any]:
        """Returns an iterator over what `compute` makes of each window, its first item's place and
        a Tick. `check` returns an item and its place as it is computed, or raises UsageError.

        What the source raises passes through. Raises UsageError at once for what is no iterable of
        items, and from the iterator CancelledError once `cancel` is set.
        """
        if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
            hint = "an ordinary iterator" if isinstance(items, AsyncIterable) else "an iterator"
            raise UsageError(f"a stream is read from {hint}, not from {type(items).__name__}")
        return self._through(items, check, compute)

    def _through(
        self,
        items: Iterable[T],
        check: Callable[[T, int], R],
        compute: Callable[[list[R], int, Tick], Any],
    ) -> Iterator[Any]:
        done = first = 0

        def tick(more: int) -> None:
            nonlocal done
            done += more
            if self.progress is not None and more:
                self.progress(done)
            if self.cancel is not None and self.cancel.is_set():
                raise CancelledError(f"the stream was cancelled after {done} texts")

        for some in windows((check(item, at) for at, item in enumerate(items)), self.window):
            tick(0)
            yield compute(some, first, tick)
            first += len(some)


def placed(compute: Callable[[list[T]], R], some: list[T], first: int, texts: Sequence[str]) -> R:
    """Returns what `compute` makes of a window; its TextError names places in the stream. `texts`
    are what the error quotes."""
    try:
        return compute(some)
    except TextError as error:
        reasons = {first + at: why for at, why in error.reasons.items()}
    raise TextError(reasons, texts, first)
