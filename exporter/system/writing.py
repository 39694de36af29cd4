"""Files that goldfold writes: each is written whole or not at all, and never through a link that
somebody else left in its place."""

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
"""Flags for a new file: open does not follow a link that somebody left under the file's name."""


def check_file(file: Path, option: str) -> None:
    """Try, before any work, whether `file` could be written. Raises OutputError, which names the
    option that the file came from."""
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
    """Let `write` fill `file` and replace the whole file; after an error the old file stays as it
    was.

    A link stays a link: the file that it leads to is replaced. A pipe or a device is written into.
    Raises OutputError.
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
    """Replace whatever lies at `file`, a link too, with what `write` writes; after an error the old
    file stays as it was. `mode` gives the permissions, by default those of a new file. Raises
    OutputError."""
    fresh: Path | None = None
    try:
        # A unique name: two processes may write at the same time.
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
    """Returns whether `file` is there and is neither a folder nor a regular file."""
    return file.exists() and not file.is_file() and not file.is_dir()
