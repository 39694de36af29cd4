"""A pool of objects that one caller uses at a time: infer requests, execution contexts.

Callers beyond its size wait for their turn. No event makes the pool smaller: not an error in a
call, and not Ctrl-C, which Python may raise between any two steps of the main thread. So the steps
that count are single calls of C (`SimpleQueue.get` and `put`), after which nothing is left to do,
and a place that is lost between two steps comes back by itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Pool(Generic[T]):
    """A pool of `size` objects, which `make` makes at once: an error of `make` is raised here."""

    def __init__(self, make: Callable[[], T], size: int) -> None:
        self._make = make
        # The last object that was given back is taken first: a single caller warms one.
        self._idle: list[T] = [make() for _ in range(size)]
        self._places: SimpleQueue[_Place] = SimpleQueue()
        home = weakref.ref(self._places)
        for _ in range(size):
            self._places.put(_Place(home))

    def use(self, work: Callable[[T], R]) -> R:
        """Returns the result of `work` on an object that no other caller has meanwhile. The object
        is given back however `work` ends."""
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
    """The right to one object of a pool."""

    __slots__ = ("_home",)

    def __init__(self, home: weakref.ref[SimpleQueue[Any]]) -> None:
        self._home = home

    def __del__(self) -> None:
        home = self._home()
        if home is not None:  # it was in use, and the pool still exists
            home.put(_Place(self._home))
