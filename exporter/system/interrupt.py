"""Ctrl-C in the command: one line and exit code 130, at whatever moment and however often.

    starting   modules are being imported: nothing has been made, so the process ends at once
    running    KeyboardInterrupt, so that what is half-made is cleared away
    ending     that goes on: impatience does not stop it, but for one more Ctrl-C after a while
    done       all is printed; the process is only being taken down, and Ctrl-C means nothing

A library is not asked how it takes a signal, so `arm` is for the command alone.
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
"""Seconds for clearing away, before another Ctrl-C ends the process."""
CODE = 130


class _Command:
    """What the process is doing. There is one process."""

    state = "not armed"
    since = 0.0


def arm() -> None:
    """Take Ctrl-C over, if that is Python's own business yet: a shell that starts a command in the
    background has it ignored."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)
        sys.unraisablehook = _unraisable
        _Command.state = "starting"


def running() -> None:
    """From now on there may be something half-made."""
    if _Command.state == "not armed":
        arm()
    if _Command.state == "starting":
        _Command.state = "running"


def done() -> None:
    """From now on there is nothing but the end: Python takes its handlers down before it is gone
    itself, and would die of a signal then."""
    if _Command.state != "not armed":
        _Command.state = "done"
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def came() -> bool:
    """Whether Ctrl-C was pressed: whatever a library made of it."""
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
    """Say it and end here and now, children first."""
    for child in _children():
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    shown = "\x1b[?25h" if os.isatty(2) else ""  # a moving line hides the cursor
    with suppress(OSError):
        os.write(2, f"{shown}{line}\n".encode())
    os._exit(CODE)


def _children() -> list[int]:
    """Linux says who they are; elsewhere those of goldfold end when their standard input does."""
    found = []
    with suppress(OSError, ValueError):
        for task in Path("/proc/self/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _unraisable(said: Any) -> None:
    """What is raised where nobody can catch it, in a destructor or a callback from C, would be
    printed and forgotten. Of Ctrl-C, neither."""
    if not issubclass(said.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(said)
    elif _Command.state == "ending":
        _Command.state = "running"
        again = threading.Timer(0.02, _press)
        again.daemon = True
        again.start()


def _press() -> None:
    """Ctrl-C for the main thread, which waits for something by now."""
    main = threading.main_thread().ident
    if main is not None and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
