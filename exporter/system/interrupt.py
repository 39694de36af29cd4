"""Ctrl-C in the command: one line and exit code 130, at any moment and however often it is pressed.

    starting   modules are being imported: nothing has been made, so the process ends at once
    running    KeyboardInterrupt, so that half-made files are removed
    ending     the removal goes on: another Ctrl-C stops it only after a while
    done       everything is printed; the process is only ending, and Ctrl-C means nothing

`arm` is for the command alone, since a library must not decide how its caller takes a signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

SAID = "interrupted; nothing half-made is left"
_AT_ONCE = "interrupted"
_STUCK = "interrupted at once; the next command clears up what is half-made"
_PATIENCE = 5.0
"""Seconds for the removal of half-made files before another Ctrl-C ends the process."""
CODE = 130


class _Command:
    """The state of the process. There is one process."""

    state = "not armed"
    since = 0.0


def arm() -> None:
    """Take Ctrl-C over if Python's own handler is still set: a shell that starts a command in the
    background has the signal ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)
        sys.unraisablehook = _unraisable
        _Command.state = "starting"


def running() -> None:
    """Mark the state from which half-made files may exist."""
    if _Command.state == "not armed":
        arm()
    if _Command.state == "starting":
        _Command.state = "running"


def done() -> None:
    """Mark the state in which only the end remains: Python removes its handlers before the process
    is gone, and would die of a signal then."""
    if _Command.state != "not armed":
        _Command.state = "done"
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def came() -> bool:
    """Returns whether Ctrl-C was pressed, even if a library caught the signal."""
    return _Command.state == "ending"


def _handle(number: int, frame: FrameType | None) -> None:
    if _Command.state == "running":
        _Command.state, _Command.since = "ending", time.monotonic()
        raise KeyboardInterrupt
    if _Command.state == "starting":
        _end(_AT_ONCE)
    elif _Command.state == "ending" and time.monotonic() - _Command.since > _PATIENCE:
        _end(_STUCK)


def _end(line: str) -> None:
    """Print `line` and end the process here and now, children first."""
    for child in _children():
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    shown = "\x1b[?25h" if os.isatty(2) else ""  # a progress line hides the cursor
    with suppress(OSError):
        os.write(2, f"{shown}{line}\n".encode())
    os._exit(CODE)


def _children() -> list[int]:
    """Returns the ids of the child processes on Linux; elsewhere goldfold's children end when their
    standard input does."""
    found = []
    with suppress(OSError, ValueError):
        for task in Path("/proc/self/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _unraisable(said: Any) -> None:
    """Repeat a Ctrl-C that came where nobody can catch it, in a destructor or a callback from C:
    Python would print the error and forget it."""
    if not issubclass(said.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(said)
    elif _Command.state == "ending":
        _Command.state = "running"
        again = threading.Timer(0.02, _press)
        again.daemon = True
        again.start()


def _press() -> None:
    """Send Ctrl-C to the main thread, which is waiting by now."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
