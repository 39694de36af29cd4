"""What the system says of files, disks and processes, where Python's own answer is not enough."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

RECORD_LIMIT = 64 << 20
"""Bytes of a manifest or a verdict; EmbeddingGemma's have a tenth of a megabyte."""

UNBUILT = ".unbuilt.json"
"""How the record of an artifact that could not be built ends (exporter/unbuilt.py)."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_SPACE = 128 << 10
"""Bytes free at which a disk counts as full: a write that fails leaves less than its own buffer."""


def read_record(file: Path) -> bytes:
    """The bytes of a manifest or a verdict.

    OSError, as for a file that cannot be read, for what is no file (a pipe would be waited for, a
    device read without end), and for more than RECORD_LIMIT.
    """
    if file.exists() and not file.is_file():
        code = errno.EISDIR if file.is_dir() else errno.EINVAL
        raise OSError(code, os.strerror(code) if file.is_dir() else "it is no file of bytes")
    with file.open("rb") as opened:
        raw = opened.read(RECORD_LIMIT + 1)
    if len(raw) > RECORD_LIMIT:
        raise OSError(errno.EFBIG, f"it is larger than {RECORD_LIMIT >> 20} MiB")
    return raw


def is_full(folder: Path, error: Exception) -> bool:
    """Whether `error`, of something that wrote below `folder`, is that the disk is full.

    Few libraries hand on the system's own number for it: numpy and OpenVINO have words of theirs,
    and a file that ends too early fails only where it is read again. So the disk is asked as well.
    """
    if getattr(error, "errno", None) in _FULL:
        return True
    try:
        return shutil.disk_usage(folder).free < _NO_SPACE
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
