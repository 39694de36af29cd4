"""A file that is cut while it is mapped: the process ends with a line, not with SIGBUS alone.

Weights are mapped, not copied. A page that another process has cut off its file cannot be read, and
the kernel sends SIGBUS to the thread that tries; no Python code can go on from there. `arm` is for
the command alone, since a library must not decide how its caller takes a signal.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

CODE = 3
"""The exit code: the model is at fault (exporter/errors.py)."""
SAID = (
    "a weights file was cut while it was read; leave the model's files alone until the export ends,"
    " or fetch the model again"
)


class _Handler:
    """The C function that is called; it must not be collected."""

    function: Any = None


def arm() -> None:
    """Take SIGBUS over, where there is one and nothing else has.

    Python's own handlers run between two of its instructions, and the instruction that cannot read
    never ends: so the handler is set in C.
    """
    if _Handler.function is not None or not hasattr(signal, "SIGBUS"):
        return
    if signal.getsignal(signal.SIGBUS) is not signal.SIG_DFL:
        return
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        kind = ctypes.CFUNCTYPE(None, ctypes.c_int)

        def ended(_: int) -> None:
            with suppress(OSError):
                shown = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""  # a line of progress is there
                os.write(2, f"{shown}error: {SAID}\n".encode())
            os._exit(CODE)

        _Handler.function = kind(ended)
        ctypes.CDLL(None).signal(signal.SIGBUS, _Handler.function)
