"""What the system says of files, disks and processes, where Python's own answer is not enough."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RECORD_LIMIT = 16 << 20
"""Bytes of a manifest or a verdict; EmbeddingGemma's have a tenth of a megabyte."""

RECORD_VALUES = 1 << 19
"""Values in one of them: each takes some ninety bytes once it is read."""

TEXT_LIMIT = 64 << 20
"""Bytes of a tokenizer, and of any other text of a model; EmbeddingGemma's tokenizer.json, the
largest that is known, has half of it."""

TOKENIZER_VALUES = 1 << 22
"""Values in a tokenizer.json; EmbeddingGemma's has 1.9 million, for 262,144 tokens."""

TOKENIZER_PARTS = 10_000
"""Normalizers, pre-tokenizers and the like in it: some twenty bytes here, half a kilobyte each in
memory."""

ENTRIES = 100_000
"""Files and folders below one folder; a model has a few dozen, its artifact as many."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk without room."""

UNBUILT = ".unbuilt.json"
"""How the record of an artifact that could not be built ends (exporter/artifact/unbuilt.py)."""

_NO_SPACE = 128 << 10
"""Bytes free at which a disk counts as full: a write that fails leaves less than its own buffer."""


class Identity(NamedTuple):
    """What tells one file from another, and from itself once it was written to or moved.

    The time of the last change is the system's own: nobody can set it, and renaming counts.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, file: Path | int) -> Identity:
        """Of a path, links followed, or of an open file. Raises OSError."""
        said = os.fstat(file) if isinstance(file, int) else file.stat()
        return cls(said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns)

    def resembles(self, other: Identity) -> bool:
        """Whether only the number of the inode differs: drives in somebody's cloud give a file
        another one whenever they are asked. What it holds must tell then."""
        return self._replace(inode=0) == other._replace(inode=0)


def read_bounded(file: Path, limit: int) -> bytes:
    """The bytes of a file that a stranger wrote.

    OSError, as for a file that cannot be read, for what is no file (a pipe would be waited for, a
    device read without end), and for more than `limit` bytes.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        code = errno.EISDIR if file.is_dir() else errno.EINVAL
        raise OSError(code, os.strerror(code) if file.is_dir() else "it is no file of bytes")
    # It may have become a pipe since: not to wait for somebody who writes into it.
    number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(number, "rb") as opened:
        raw = b"" if os.fstat(number).st_size > limit else opened.read(limit + 1)
        if len(raw) > limit or os.fstat(number).st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {_in_words(limit)}")
    return raw


def read_record(file: Path) -> bytes:
    """The bytes of a manifest or a verdict, as `read_bounded`; OSError as well for JSON of more
    values than either has."""
    raw = read_bounded(file, RECORD_LIMIT)
    if values(raw) > RECORD_VALUES:
        raise OSError(errno.EFBIG, f"it holds more than {RECORD_VALUES:,} values")
    return raw


def read_tokenizer(file: Path) -> bytes:
    """The bytes of a tokenizer.json, as `read_bounded`; OSError as well for one that would fill the
    memory once it is read."""
    raw = read_bounded(file, TEXT_LIMIT)
    if values(raw) > TOKENIZER_VALUES:
        raise OSError(errno.EFBIG, f"it holds more than {TOKENIZER_VALUES:,} values")
    if raw.count(b'"type"') > TOKENIZER_PARTS:
        raise OSError(errno.EFBIG, f"it holds more than {TOKENIZER_PARTS:,} parts")
    return raw


def values(raw: bytes) -> int:
    """How many values JSON text can hold at most. Its size says little of what it takes once it is
    read: `[]` is two bytes here and ninety there."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + 1


def digest(file: Path) -> str:
    """sha256 of a file, in hex. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that lies below `folder` but folders; links are not followed.

    Raises OSError where a folder cannot be read, or more than ENTRIES lie there.
    """
    waiting, count = [os.fspath(folder)], 0
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                count += 1
                if count > ENTRIES:
                    raise OSError(errno.EFBIG, f"it holds more than {ENTRIES:,} files")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry


def key_of(folder: Path, path: str) -> str:
    """The path of what lies below `folder`, with `/` between its parts.

    In UTF-8 wherever Python runs: in an ASCII locale its own names hold halves of characters.
    """
    relative = os.path.relpath(path, folder)
    return Path(os.fsencode(relative).decode("utf-8", "surrogateescape")).as_posix()


def place_of(folder: Path, key: str) -> Path:
    """The path of `key` below `folder`: what `key_of` undoes."""
    return folder / os.fsdecode(key.encode("utf-8", "surrogateescape"))


def expanded(text: str) -> Path:
    """A path, `~` in it the home folder where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # nobody knows one: no HOME, and a user without an entry
        return Path(text)


def is_full(folder: Path, error: Exception) -> bool:
    """Whether `error`, of something that wrote below `folder`, is that the disk is full.

    Few libraries hand on the system's own number for it: numpy and OpenVINO have words of theirs,
    and a file that ends too early fails only where it is read again. So the disk is asked as well.
    """
    if getattr(error, "errno", None) in FULL:
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


def _in_words(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
