"""Single files that goldfold writes: whole or not at all, and never through a link that somebody
left for them."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from goldfold.exporter.errors import OutputError

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
"""For a new file: a link that somebody left under its name is not followed."""


def check_file(file: Path, option: str) -> None:
    """Try, before any work, whether `file` could be written. Raises OutputError naming the option
    it came from."""
    try:
        real = file.resolve()
        if real.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if _is_stream(real):
            if not os.access(real, os.W_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
            return
        with tempfile.TemporaryFile(dir=real.parent):
            pass
    except (OSError, ValueError, RuntimeError) as error:
        said = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write {file}: {said}; choose another {option}") from None


def write_file(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill `file`, which is replaced as a whole; on an error it stays as it was.

    A link keeps its place: what it leads to is replaced. A pipe or a device is written into. Raises
    OutputError.
    """
    try:
        real = file.resolve()
        if _is_stream(real):
            content = io.BytesIO()  # a library may want to seek
            write(content)
            with real.open("wb") as opened:
                opened.write(content.getbuffer())
            return
        mode = stat.S_IMODE(real.stat().st_mode) if real.exists() else None
    except (OSError, ValueError, RuntimeError) as error:
        raise _unwritten(file, error) from None
    replace_file(real, write, mode)


def replace_file(file: Path, write: Callable[[BinaryIO], object], mode: int | None = None) -> None:
    """Put what `write` writes in the place of `file`, whatever lies there, a link too; on an error
    that stays as it was. `mode` is its permissions, by default a new file's. Raises OutputError."""
    fresh: Path | None = None
    try:
        # A name of its own: two processes may write at the same time.
        name = file.with_name(f".{file.name[:100]}.{secrets.token_hex(8)}.new")
        number = os.open(name, _FLAGS, 0o666)
        fresh = name
        with os.fdopen(number, "wb") as opened:
            write(opened)
        if mode is not None:
            fresh.chmod(mode)
        fresh.replace(file)
        fresh = None
    except (OSError, ValueError) as error:
        raise _unwritten(file, error) from None
    finally:
        if fresh is not None:
            with suppress(OSError):
                fresh.unlink()


def _unwritten(file: Path, error: Exception) -> OutputError:
    return OutputError(f"cannot write {file}: {getattr(error, 'strerror', None) or error}")


def _is_stream(file: Path) -> bool:
    """Whether there is something that is neither a folder nor a file of bytes."""
    return file.exists() and not file.is_file() and not file.is_dir()
