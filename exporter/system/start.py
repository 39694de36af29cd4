"""The start of the `goldfold` command, before it imports anything: it takes Ctrl-C over, and makes
Python use UTF-8.

In an ASCII locale whose coercion was switched off, Python holds the names of files in a form that
no other library reads. There the command starts itself again in Python's UTF-8 mode; output stays
in the encoding of the locale, and characters that the encoding lacks are replaced.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from goldfold.exporter.system import interrupt

_NAME = "goldfold"
_TOLD = "_GOLDFOLD_ENCODING"
"""The encoding of standard output before Python was started again; input texts are read as
UTF-8."""


def begin() -> None:
    """Prepare the process for the command. goldfold calls this when it is imported; it does nothing
    unless the import comes from the command."""
    if not is_command():
        return
    interrupt.arm()
    _open_streams()
    if (encoding := os.environ.pop(_TOLD, None)) is not None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError, LookupError):
                stream.reconfigure(encoding=encoding, errors="replace")  # type: ignore[union-attr]
    elif sys.getfilesystemencoding().lower() not in ("utf-8", "utf8"):
        _again()


def _open_streams() -> None:
    """Open /dev/null for standard streams that are closed. Otherwise the next opened file would
    take their number, and get what libraries say on standard error."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
                if number and getattr(sys, name) is None:
                    setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def is_command() -> bool:
    """Returns whether this process is the command, by what Python itself was started with: a worker
    process is given its parent's `sys.argv`."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "") == "goldfold"
        if word in ("-X", "-W"):
            next(words, None)
        elif not word.startswith("-") or word == "-c":
            return Path(word).stem == _NAME
    return False


def _again() -> None:
    """Start the same command in UTF-8 mode, in this process; go on as before where that is
    impossible."""
    words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    told = {"PYTHONUTF8": "1", _TOLD: getattr(sys.stdout, "encoding", None) or "ascii"}
    with suppress(OSError, ValueError, TypeError):
        os.execve(sys.executable, words, {**os.environ, **told})
