"""Output of native libraries that bypasses Python: a Rust library that panics writes a page to
standard error, whoever catches its error.

This is for the command alone, whose errors are one line: a library does not redirect its caller's
streams.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


class _Command:
    """The state of the process. There is one process, and one standard error."""

    quiet = False


def be_quiet() -> None:
    """Make `hushed` work in this process."""
    _Command.quiet = True


def is_panic(error: BaseException) -> bool:
    """Returns whether a Rust library panicked. A panic is no Exception: it would pass every
    handler."""
    return type(error).__name__ == "PanicException"


def reason(error: BaseException) -> str:
    """Returns the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what native code writes to standard error while this is open; Python's own output goes
    on."""
    if not _Command.quiet or sys.stderr is None:
        yield
        return
    python, kept = sys.stderr, os.dup(_STDERR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    own = os.fdopen(os.dup(kept), "w", 1, getattr(python, "encoding", None), "replace")
    try:
        python.flush()
        sys.stderr = own
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        sys.stderr = python
        own.close()
        os.close(kept)
        os.close(nowhere)
