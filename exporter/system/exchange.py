"""The exchange of two paths in one step, where the system and the file system support it.

Linux has renameat2 (RENAME_EXCHANGE) and macOS renamex_np (RENAME_SWAP); ext4, XFS, Btrfs, tmpfs
and APFS support it, NFS and FAT do not. Python has neither call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

_HERE = -100
"""AT_FDCWD: a relative path begins in the working folder."""
_EXCHANGE, _SWAP = 2, 2
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV}
"""Error numbers with which a system, a file system or a sandbox says that it lacks the call: the
caller then works in steps, and those report whatever else was wrong."""


def exchange(one: Path, other: Path) -> bool:
    """Exchange `one` and `other`, both there; returns False, with nothing done, where that is
    impossible. Raises OSError for whatever else is wrong, FileNotFoundError if either is not
    there."""
    call = _call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), os.fspath(other))


@cache
def _call() -> Any:
    """Returns the call (path, path) → 0 or −1; None where the system has no such call."""
    try:
        library: Any = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            swap = library.renamex_np
            return lambda one, other: swap(one, other, _SWAP)
        rename = library.renameat2
        return lambda one, other: rename(_HERE, one, _HERE, other, _EXCHANGE)
    except (OSError, AttributeError, TypeError):  # Windows, and C libraries from before 2018
        return None
