"""A limit on numpy's matrix products, which several callers may want at once.

The number of threads is the process's own, so a caller cannot have one for itself. As long as any
is inside, the fewest that one of them asked for holds for all; when the last has left, the number
is what it was before the first came.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

_LOCK = threading.Lock()
_ASKED: dict[object, int] = {}
"""By caller."""
_BEFORE: list[Any] = []
"""What knows the number before the first caller came; one, or none."""


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """Matrix products in at most `threads` threads inside; None asks for nothing."""
    if threads is None:
        yield
        return
    caller = object()
    try:
        with _LOCK:
            _ASKED[caller] = threads
            _settle()
        yield
    finally:
        with _LOCK:
            _ASKED.pop(caller, None)
            _settle()


def _settle() -> None:
    if _ASKED:
        found = _controller().limit(limits=min(_ASKED.values()))
        if not _BEFORE:
            _BEFORE.append(found)
    elif _BEFORE:
        _BEFORE.pop().restore_original_limits()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through every library that is loaded
