"""A micro-batcher: texts of callers that do not know of each other go through the runtime together.

A caller's texts wait until `max_batch_size` of them, or `max_batch_tokens`, have come, or the
oldest has waited for `max_wait_ms`. While the runtime is at work the next texts gather by
themselves. What is then taken is sorted by length and split as `embed` does it
(exporter/evaluate/batches.py), the shortest first.

A text is computed beside its neighbours, and its vector is what `embed` gives for it in a batch of
the same padding. A text that cannot be embedded fails its own request alone; a batch on which the
runtime fails is computed again text by text, so that only the guilty request sees the error.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from goldfold.exporter.errors import Busy, TextError, UsageError
from goldfold.exporter.evaluate import batches as batching

if TYPE_CHECKING:
    from goldfold.exporter.artifact.runnable import Runnable

_IDLE = 10.0
"""Seconds after which a thread without work ends; the next text starts another."""


@dataclass(frozen=True)
class Job:
    """The texts of one caller, and what is done to them. Rows of jobs of one `key` go through the
    runtime together."""

    texts: Sequence[Any]
    read: Callable[[], tuple[Sequence[Any], dict[int, str]]]
    """Returns token ids, and by index why some texts have none."""
    key: Hashable
    run: Callable[[np.ndarray, np.ndarray], np.ndarray]
    width: int
    """Numbers that `run` gives for each row."""
    finish: Callable[[np.ndarray], Any]
    """From float32 [texts, width] to what the caller gets."""
    lenient: bool = False
    """Whether a text that cannot be computed is a row of NaN."""


@dataclass(eq=False)
class _Request:
    job: Job
    future: Future
    overflows: str
    since: float = field(default_factory=time.monotonic)
    odd: dict[int, str] = field(default_factory=dict)
    error: BaseException | None = None
    left: int = 0
    rows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.job.texts)
        self.rows = np.full((self.left, self.job.width), np.nan, np.float32)

    def end(self) -> None:
        """Give the caller a result or an error, unless it has gone."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            if self.error is not None:
                raise self.error
            if self.odd and not self.job.lenient:
                shown = [one if isinstance(one, str) else " | ".join(one) for one in self.job.texts]
                raise TextError(self.odd, shown)
            found = self.job.finish(self.rows)
        except BaseException as error:  # whatever it is, it is the caller's
            self.future.set_exception(error)
        else:
            self.future.set_result(found)


@dataclass(frozen=True, eq=False)
class _Row:
    request: _Request
    place: int
    ids: Any


class Batcher:
    """Batches across callers, threads and coroutines alike.

        with Batcher(load("out/openvino-fp32"), max_wait_ms=2) as batcher:
            vectors = batcher.embed(["one", "two"], task="query")        # from any thread
            vectors = await batcher.aembed(["one", "two"], task="query")  # from any event loop

    Args:
        model: an Encoder or a Scorer.
        max_wait_ms: the longest that a text waits for others while the runtime is free.
        max_batch_size: the most texts in one call of the runtime.
        max_batch_tokens: the most tokens in one call, padding included; a longer text goes alone.
        max_waiting: the most texts that may wait; one more is refused.
        workers: how many calls of the runtime may be at work at once: the artifact's `streams`.

    Raises:
        UsageError: an argument out of range.
    """

    def __init__(
        self,
        model: Runnable,
        *,
        max_wait_ms: float = 2.0,
        max_batch_size: int = 32,
        max_batch_tokens: int = batching.BATCH_TOKENS,
        max_waiting: int = 4096,
        workers: int = 1,
    ) -> None:
        _check_wait(max_wait_ms)
        _check_counts(
            max_batch_size=max_batch_size,
            max_batch_tokens=max_batch_tokens,
            max_waiting=max_waiting,
            workers=workers,
        )
        self.model: Any = model
        self.texts_a_batch: Counter[int] = Counter()
        """Calls of the runtime by their number of texts."""
        self.requests_a_batch: Counter[int] = Counter()
        """Calls of the runtime by the number of requests that their texts came from."""
        self._wait, self._size, self._most = max_wait_ms / 1e3, max_batch_size, max_waiting
        self._tokens = min(max_batch_tokens, batching.room(model.contract))
        self._workers, self._threads = workers, 0
        self._arrived: deque[_Request] = deque()
        self._rows: deque[_Row] = deque()
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()
        self._pid = os.getpid()

    # --- for callers

    def embed(self, texts: Any, *args: Any, **how: Any) -> Any:
        """As the encoder's `embed`, with its arguments but `batch_size`. Raises Busy where too many
        texts wait, UsageError where the batcher is closed."""
        return _waited(self.submit(texts, *args, **how))

    async def aembed(self, texts: Any, *args: Any, **how: Any) -> Any:
        """As `embed`; a coroutine that is cancelled takes its texts out of the queue."""
        return await asyncio.wrap_future(self.submit(texts, *args, **how))

    def predict(self, pairs: Any, **how: Any) -> Any:
        """As the scorer's `predict`, with its arguments but `batch_size`. Raises as `embed`."""
        return _waited(self.submit(pairs, **how))

    async def apredict(self, pairs: Any, **how: Any) -> Any:
        """As `predict`; a coroutine that is cancelled takes its pairs out of the queue."""
        return await asyncio.wrap_future(self.submit(pairs, **how))

    def submit(self, texts: Any, *args: Any, **how: Any) -> Future:
        """Put texts, or pairs, into the queue; returns a concurrent.futures.Future of their result,
        which can be cancelled until it is there. What is wrong with an argument is raised at once,
        and what is wrong with a text is the future's."""
        request = _Request(self.model._job(texts, *args, **how), Future(), self.model._overflows)
        if request.left == 0:
            request.end()
            return request.future
        if self._pid != os.getpid():
            raise UsageError("this Batcher was made before the process was forked; make one here")
        with self._changed:
            if self._closed:
                raise UsageError("this Batcher is closed; make another")
            if self._held + request.left > self._most:
                also = f"{self._held} texts wait" if self._held else "the request is too large"
                raise Busy(
                    f"{request.left} texts more than may wait: {also}, and max_waiting is "
                    f"{self._most}; try again later, or send fewer"
                )
            self._held += request.left
            self._arrived.append(request)
            if self._threads < self._workers:
                self._threads += 1
                name = f"goldfold-batcher-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._changed.notify()
        return request.future

    @property
    def waiting(self) -> int:
        """The number of texts that wait for the runtime."""
        return self._held

    @property
    def usable(self) -> bool:
        """Whether it takes texts: it is open, and was made in this process."""
        return not self._closed and self._pid == os.getpid()

    def close(self, cancel: bool = False) -> None:
        """Take no more texts. Those that wait are computed, or, with `cancel`, their futures are
        cancelled; returns when that is done."""
        with self._changed:
            self._closed = True
            if cancel:
                for request in {*self._arrived, *(row.request for row in self._rows)}:
                    request.future.cancel()
            self._changed.notify_all()
            if self._pid == os.getpid():
                self._changed.wait_for(lambda: self._threads == 0)

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Batcher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    # --- the threads' side

    def _work(self) -> None:
        while (step := self._next()) is not None:
            step()
            del step  # holds a request's arrays

    def _next(self) -> Callable[[], None] | None:
        """Returns what is to be done next, when it is; None ends the thread."""
        with self._changed:
            while True:
                if self._arrived:
                    return partial(self._read, self._arrived.popleft())
                if self._rows:
                    left = self._rows[0].request.since + self._wait - time.monotonic()
                    if left <= 0 or self._closed or self._full():
                        return partial(self._compute, self._taken())
                    self._changed.wait(left)
                elif self._closed or not self._changed.wait(_IDLE):
                    if self._arrived or self._rows:
                        continue
                    self._threads -= 1
                    self._changed.notify_all()
                    return None

    def _full(self) -> bool:
        if len(self._rows) >= self._size:
            return True
        return sum(len(row.ids) for row in self._rows) >= self._tokens

    def _read(self, request: _Request) -> None:
        """Make tokens of a request's texts, and put them into the queue."""
        rows: list[_Row] = []
        if not request.future.cancelled():
            try:
                found, request.odd = request.job.read()
                rows = [
                    _Row(request, place, ids)
                    for place, ids in enumerate(found)
                    if place not in request.odd
                ]
            except BaseException as error:  # whatever it is, it is the caller's
                request.error = error
        lost = len(request.job.texts) - len(rows)
        with self._changed:
            request.left -= lost
            self._held -= lost
            self._rows += rows
            self._changed.notify_all()
        if not rows:
            request.end()

    def _taken(self) -> list[_Row]:
        """Returns the oldest row with those that may be computed beside it, and drops those whose
        caller has gone."""
        kept: deque[_Row] = deque()
        taken: list[_Row] = []
        tokens = 0
        for row in self._rows:
            if row.request.future.cancelled():
                self._held -= 1
                continue
            same = not taken or row.request.job.key == taken[0].request.job.key
            if same and (not taken or tokens + len(row.ids) <= self._tokens):
                taken.append(row)
                tokens += len(row.ids)
            else:
                kept.append(row)
        self._rows = kept
        self._held -= len(taken)
        return taken

    def _compute(self, rows: list[_Row]) -> None:
        lengths = [len(row.ids) for row in rows]
        call = self.model._call_tokens
        for places in reversed(batching.batches(lengths, self._size, call, self._tokens)):
            some = [rows[place] for place in places]
            self._call([row for row in some if not row.request.future.cancelled()])

    def _call(self, rows: list[_Row]) -> None:
        if not rows:
            return
        try:
            ids, mask = batching.pad([row.ids for row in rows], self.model.contract.pad_id)
            made = rows[0].request.job.run(ids, mask)
        except BaseException as error:
            if len(rows) > 1:
                for row in rows:
                    self._call([row])
                return
            rows[0].request.error = error
            self._put(rows, None)
            return
        self.texts_a_batch[len(rows)] += 1
        self.requests_a_batch[len({id(row.request) for row in rows})] += 1
        self._put(rows, made)

    def _put(self, rows: Iterable[_Row], made: np.ndarray | None) -> None:
        """Give rows to their requests, and end the requests that have all of theirs."""
        ended = []
        with self._changed:
            for at, row in enumerate(rows):
                request = row.request
                if made is not None:
                    request.rows[row.place] = made[at]
                    if not np.isfinite(made[at]).all():
                        request.odd[row.place] = request.overflows
                        request.rows[row.place] = np.nan
                request.left -= 1
                if request.left == 0:
                    ended.append(request)
        for request in ended:
            request.end()


def _waited(future: Future) -> Any:
    try:
        return future.result()
    except BaseException:  # Ctrl-C too: nobody waits for the texts any more
        future.cancel()
        raise


def _check_wait(wait: Any) -> None:
    known = isinstance(wait, (int, float)) and not isinstance(wait, bool)
    if not known or not 0 <= wait <= 60_000:
        raise UsageError(f"max_wait_ms is {wait!r}; it must be a number from 0 to 60000")


def _check_counts(**counts: Any) -> None:
    for name, given in counts.items():
        if not isinstance(given, int) or isinstance(given, bool) or given < 1:
            raise UsageError(f"{name} is {given!r}; it must be a whole number from 1")
