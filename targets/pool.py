"""A pool of what one caller uses at a time: infer requests, execution contexts.

Callers beyond its size wait for their turn. Nothing that happens on the way makes the pool smaller:
not an error in a call, and not Ctrl-C, which Python may raise between any two steps of the main
thread. So the steps that count are single calls of C (`SimpleQueue.get` and `put`), after which
nothing is left to do, and a place that is lost between two steps comes back by itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Pool(Generic[T]):
    """`size` things that `make` makes, at once: an error of it is raised here."""

    def __init__(self, make: Callable[[], T], size: int) -> None:
        self._make = make
        # The last that was given back is the first to be taken: a single caller warms one.
        self._idle: list[T] = [make() for _ in range(size)]
        self._places: SimpleQueue[_Place] = SimpleQueue()
        home = weakref.ref(self._places)
        for _ in range(size):
            self._places.put(_Place(home))

    def use(self, work: Callable[[T], R]) -> R:
        """What `work` makes of a thing that no other caller has meanwhile. It is given back however
        `work` ends."""
        place = None
        try:
            place = self._places.get()
            thing = self._taken()
            try:
                return work(thing)
            finally:
                self._idle.append(thing)
        finally:
            if place is not None:
                self._places.put(place)

    def _taken(self) -> T:
        try:
            return self._idle.pop()
        except IndexError:  # one was lost to an interrupt
            return self._make()


class _Place:
    """The right to one thing of a pool."""

    __slots__ = ("_home",)

    def __init__(self, home: weakref.ref[SimpleQueue[Any]]) -> None:
        self._home = home

    def __del__(self) -> None:
        home = self._home()
        if home is not None:  # it was on its way, and the pool still stands
            home.put(_Place(self._home))
