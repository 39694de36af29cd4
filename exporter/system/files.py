"""Facts of the system about files, disks and processes, where Python's own answer is not enough."""

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
"""Maximum bytes of a manifest or a verdict; EmbeddingGemma's have a tenth of a megabyte."""

RECORD_VALUES = 1 << 19
"""Maximum number of values in a manifest or a verdict: each takes some ninety bytes in memory."""

TEXT_LIMIT = 64 << 20
"""Maximum bytes of a tokenizer, and of any other text of a model; EmbeddingGemma's tokenizer.json,
the largest known, has half of that."""

TOKENIZER_VALUES = 1 << 22
"""Maximum number of values in a tokenizer.json; EmbeddingGemma's has 1.9 million, for 262,144
tokens."""

TOKENIZER_PARTS = 10_000
"""Maximum number of normalizers, pre-tokenizers and the like in it: each is some twenty bytes in
the file and half a kilobyte in memory."""

ENTRIES = 100_000
"""Maximum number of files and folders below one folder; a model has a few dozen, its artifact as
many."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a disk without room."""

UNBUILT = ".unbuilt.json"
"""The ending of the record of an artifact that could not be built
(exporter/artifact/unbuilt.py)."""

_NO_SPACE = 128 << 10
"""Bytes free at which a disk counts as full: a write that fails leaves less than its own buffer."""


class Identity(NamedTuple):
    """The identity of a file: it tells one file from another, and from itself after a write or a
    move.

    The time of the last change comes from the system: nobody can set it, and renaming counts.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, file: Path | int) -> Identity:
        """Returns the identity of a path, links followed, or of an open file. Raises OSError."""
        said = os.fstat(file) if isinstance(file, int) else file.stat()
        return cls(said.st_dev, said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns)

    def resembles(self, other: Identity) -> bool:
        """Returns whether only the number of the inode differs: cloud drives give a file another
        number at every request. Then its content must decide."""
        return self._replace(inode=0) == other._replace(inode=0)


def read_bounded(file: Path, limit: int) -> bytes:
    """Returns the bytes of a file that a stranger wrote.

    Raises OSError as for a file that cannot be read; also for anything but a file (a pipe would be
    waited for, a device read without end), and for more than `limit` bytes.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        code = errno.EISDIR if file.is_dir() else errno.EINVAL
        raise OSError(code, os.strerror(code) if file.is_dir() else "it is no file of bytes")
    # The file may have become a pipe since: open must not wait for somebody who writes into it.
    number = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(number, "rb") as opened:
        raw = b"" if os.fstat(number).st_size > limit else opened.read(limit + 1)
        if len(raw) > limit or os.fstat(number).st_size > limit:
            raise OSError(errno.EFBIG, f"it is larger than {_in_words(limit)}")
    return raw


def read_record(file: Path) -> bytes:
    """Returns the bytes of a manifest or a verdict, as `read_bounded`. Raises OSError as well for
    JSON of more values than either has."""
    raw = read_bounded(file, RECORD_LIMIT)
    if values(raw) > RECORD_VALUES:
        raise OSError(errno.EFBIG, f"it holds more than {RECORD_VALUES:,} values")
    return raw


def read_tokenizer(file: Path) -> bytes:
    """Returns the bytes of a tokenizer.json, as `read_bounded`. Raises OSError as well for a
    tokenizer that would fill the memory."""
    raw = read_bounded(file, TEXT_LIMIT)
    if values(raw) > TOKENIZER_VALUES:
        raise OSError(errno.EFBIG, f"it holds more than {TOKENIZER_VALUES:,} values")
    if raw.count(b'"type"') > TOKENIZER_PARTS:
        raise OSError(errno.EFBIG, f"it holds more than {TOKENIZER_PARTS:,} parts")
    return raw


def values(raw: bytes) -> int:
    """Returns how many values JSON text can hold at most. Its size does not tell how much memory it
    takes: `[]` is two bytes in the file and ninety in memory."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{") + 1


def digest(file: Path) -> str:
    """Returns the sha256 of a file, in hex. Raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yields every file below `folder`, but no folders; links are not followed.

    Raises OSError if a folder cannot be read, or more than ENTRIES lie there.
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
    """Returns a path below `folder`, with `/` between its parts.

    The result is UTF-8 wherever Python runs: in an ASCII locale Python's own names hold halves of
    characters.
    """
    relative = os.path.relpath(path, folder)
    return Path(os.fsencode(relative).decode("utf-8", "surrogateescape")).as_posix()


def place_of(folder: Path, key: str) -> Path:
    """Returns the path of `key` below `folder`: the inverse of `key_of`."""
    return folder / os.fsdecode(key.encode("utf-8", "surrogateescape"))


def link(source: Path, place: Path) -> None:
    """Link the same file under another name, in folders that are made where they are missing; copy
    it across file systems."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), place)  # of a link, the file that it leads to
    except OSError:
        shutil.copyfile(source, place)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def expanded(text: str) -> Path:
    """Returns a path, with `~` replaced by the home folder where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # no home is known: no HOME, and a user without an entry
        return Path(text)


def is_full(folder: Path, error: Exception) -> bool:
    """Returns whether `error`, raised by a write below `folder`, means that the disk is full.

    Few libraries hand on the system's own number for it: numpy and OpenVINO have messages of their
    own, and a file that ends too early fails only where it is read again. So the disk is asked as
    well.
    """
    if getattr(error, "errno", None) in FULL:
        return True
    try:
        return shutil.disk_usage(folder).free < _NO_SPACE
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Returns whether a process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _in_words(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
