"""Opened artifacts and processes: an artifact reaches another process by fork or by pickle.

A fork copies one thread. The runtime's other threads never finish in the child what they held or
were about to do: OpenVINO in the child waits for ever where the parent was at work (5 of 6 tries),
and waits as well where the child only ends. So a child opens the artifact again where the target
says that this is safe, and refuses in words where it is not; it never touches the runtime that it
inherited, not even to release it.

A pickled encoder is the path of its folder. The receiving process opens the folder again at the
first call, so that an error of that reaches the caller.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import Bundle, open_bundle
from goldfold.exporter.errors import ArtifactError, TargetError, UsageError

_KEPT = 2
"""Number of received encoders that a process keeps open: each task of a pool brings its own, and
finds it opened by the task before."""

_first: dict[str, int] = {}
"""The process that opened an artifact first, by target; a fork inherits this from its parent."""
_received: dict[Any, Any] = {}
_alive: weakref.WeakSet[Opened] = weakref.WeakSet()


@dataclass(frozen=True)
class Way:
    """The arguments with which `goldfold.exporter.artifact.encoder.load` opened an artifact."""

    bundle: Bundle
    threads: int | None
    streams: int | None
    proof: bool

    def key(self) -> tuple[Any, ...]:
        """A key that is equal where the same files are opened in the same way."""
        manifest = hashlib.sha256(self.bundle.manifest.to_bytes()).hexdigest()
        return (str(self.bundle.path), manifest, self.threads, self.streams, self.proof)

    def open(self) -> Callable[..., np.ndarray]:
        """Returns the target's `Run`. Raises as `goldfold.exporter.artifact.encoder.load` does;
        UsageError in a fork of a process that has the target's runtime at work, where the runtime
        does not survive that."""
        manifest, path = self.bundle.manifest, self.bundle.path
        name = manifest.target
        target = registry.target(name)
        parent = _first.setdefault(name, os.getpid())
        reason = None if parent == os.getpid() else target.after_fork()
        if reason is not None:
            raise UsageError(
                f"{path}: {name} was opened before this process was forked from process {parent}, "
                f"and {reason}; start processes with multiprocessing's spawn or forkserver, or "
                "fork before the first artifact is opened"
            )
        if self.proof and target.cannot_run(path):
            return target.reference_run(path, manifest.contract, manifest.floating, self.threads)
        how = (path, manifest.contract, manifest.floating, self.threads)
        if self.streams is None:
            return target.load(*how)
        if "streams" not in inspect.signature(target.load).parameters:  # an external target
            raise TargetError(f"{path}: target {name} knows no streams; leave them out")
        return target.load(*how, streams=self.streams)

    def again(self) -> Callable[..., np.ndarray]:
        """Open the artifact again in another process, or later: the folder must still be the
        same."""
        found = open_bundle(self.bundle.path, unverified=self.proof)
        if found.manifest != self.bundle.manifest:
            raise ArtifactError(f"{found.path} has changed since it was opened; load it again")
        return self.open()


class Opened:
    """A target's `Run`, with the process that opened it."""

    def __init__(self, way: Way) -> None:
        self.way = replace(way, bundle=replace(way.bundle, path=way.bundle.path.absolute()))
        self._runs: dict[int, Callable[..., np.ndarray]] = {}
        self._opening: dict[int, threading.Lock] = {}
        _watch_forks()
        _alive.add(self)

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        run = self._runs.get(os.getpid()) or self.open(self.way.again)
        return run(input_ids, attention_mask, output)

    def open(self, opener: Callable[[], Callable[..., np.ndarray]]) -> Callable[..., np.ndarray]:
        """Returns the `Run` of this process, opened once, however many threads ask."""
        pid = os.getpid()
        # One lock per process: another thread may have held the parent's when it was forked.
        with self._opening.setdefault(pid, threading.Lock()):
            if pid not in self._runs:
                self._runs[pid] = opener()
            return self._runs[pid]

    def __reduce__(self) -> tuple[Any, ...]:
        return Opened, (self.way,)

    def leave(self) -> None:
        """Keep the inherited runtime in memory for ever: a runtime that is released in a fork waits
        for threads that are not there."""
        for run in self._runs.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(run))
        self._runs = {}


def opened(way: Way) -> Opened:
    """Open the artifact now, so that an error is raised here."""
    made = Opened(way)
    made.open(way.open)
    return made


def sent(encoder: Any, run: Any, *left: str) -> tuple[Any, ...]:
    """Returns what pickle writes for an encoder: its fields, those called `left` as None. `run`
    is its Opened; any other callable is pickled with the rest."""
    state = {**vars(encoder), **dict.fromkeys(left)}
    key = None
    if isinstance(run, Opened):
        state["bundle"] = run.way.bundle
        key = (type(encoder), *run.way.key())
    return _arrived, (type(encoder), state, key)


def _arrived(kind: Any, state: dict[str, Any], key: Any) -> Any:
    found = _received.pop(key, None) if key is not None else None
    if found is None:
        found = kind.__new__(kind)
        vars(found).update(state)
    if key is not None:
        _received[key] = found  # the most recently used is the last to go
        for old in list(_received)[:-_KEPT]:
            _received.pop(old, None)
    return found


@cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_leave_all)


def _leave_all() -> None:
    for one in list(_alive):
        one.leave()
