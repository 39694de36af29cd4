"""The cache: finished stages on disk, keyed by the digest of all their inputs. The store may be
lost.

    trace-9f3c…/index.json    sha256 and size of every other file of the entry
    trace-9f3c…/…             the result of the stage (exporter/driver/cached_stages.py)

An entry is written aside and renamed into place, so it is there whole or not at all. A process that
comes second finds the entry already there: processes share a folder without a lock. Every byte is
checked when an entry is read. Nothing is ever unpickled. A stage that cannot be read is run again,
and one that cannot be written is not kept: a failing cache costs time, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from goldfold.exporter.errors import OutputError, UsageError
from goldfold.exporter.system.files import expanded
from goldfold.exporter.system.surroundings import home

FOLDER = "GOLDFOLD_CACHE"
"""The variable that names the folder; set and empty, it switches the cache off."""
SIZE = "GOLDFOLD_CACHE_GB"
"""The variable that limits the size of the folder, in gigabytes."""
DEFAULT_GB = 10.0

_INDEX = "index.json"
_FRESH = ".goldfold-new-"
_RETIRED = ".goldfold-old-"
_ENTRY = re.compile(r"[a-z]+-[0-9a-f]{64}")
"""Names of entries. Anything else in the folder is not ours: it is neither counted nor removed."""
_DAY = 86_400.0

T = TypeVar("T")


class Damaged(Exception):
    """An entry is not what was written; the text says which file, and how."""


@dataclass(frozen=True)
class Entry:
    """One finished stage on disk, unchecked."""

    path: Path
    size: int
    used: float
    """Seconds since 1970."""

    @property
    def stage(self) -> str:
        return self.path.name.rpartition("-")[0]


@dataclass
class Cache:
    """A folder of finished stages, of at most `limit` bytes; the least recently used go first."""

    folder: Path
    limit: int = int(DEFAULT_GB * 1e9)
    _remarks: list[str] = field(default_factory=list)
    _writes: bool = True

    def get(self, stage: str, key: str, read: Callable[[Path], T]) -> T | None:
        """Returns what `read` returns for the entry's folder, every file of which has been checked.

        Returns None if there is no such entry. A damaged entry, or one for which `read` raises
        Damaged, is removed, and `remarks` says so.
        """
        path = self._place(stage, key)
        try:
            _check(path)
            found = read(path)
            with suppress(OSError):  # a folder that cannot be written can still be read
                os.utime(path / _INDEX)
            return found
        except Damaged as fault:
            if path.is_dir():  # else another process has just removed it
                self._remarks.append(f"{path.name[:20]}… in the cache was damaged ({fault})")
                self._retire(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._remarks.append(f"the cache cannot be read ({error.strerror}: {self.folder})")
        return None

    def put(self, stage: str, key: str, write: Callable[[Path], None]) -> None:
        """Keep the files that `write` leaves in the folder it is given. Never raises OSError."""
        if not self._writes:
            return
        path, fresh = self._place(stage, key), None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=_FRESH, dir=self.folder))
            write(fresh)
            size = _seal(fresh)
            if size > self.limit:
                self._remarks.append(f"not kept: {size / 1e9:.2f} GB, the cache may have less")
                return
            self.trim(self.limit - size)
            with suppress(OSError):  # another process was first; its entry is the same
                fresh.rename(path)
        except OSError as error:
            self._writes = False
            self._remarks.append(f"not kept: {self.folder}: {error.strerror}")
        finally:
            if fresh is not None:
                shutil.rmtree(fresh, ignore_errors=True)

    def files(self, stage: str, **parts: Any) -> dict[str, bytes] | None:
        """Returns the files that `keep` stored under the same parts; `remarks` says where they come
        from."""

        def read(folder: Path) -> dict[str, bytes]:
            paths = [path for path in sorted(folder.iterdir()) if path.name != _INDEX]
            return {path.name: path.read_bytes() for path in paths}

        found = self.get(stage, key(**parts), read)
        if found is not None:
            self.remark(f"{stage} from the cache")
        return found

    def keep(self, stage: str, files: Mapping[str, bytes], **parts: Any) -> None:
        """Keep files by name, of a stage whose inputs are `parts`; see `key`."""

        def write(folder: Path) -> None:
            for name, raw in files.items():
                (folder / name).write_bytes(raw)

        self.put(stage, key(**parts), write)

    def remark(self, text: str) -> None:
        """Add a text to `remarks`."""
        self._remarks.append(text)

    def remarks(self) -> str:
        """Returns the remarks since the last call, each "; …"; they go behind a stage's note."""
        said = "".join(f"; {remark}" for remark in self._remarks)
        self._remarks.clear()
        return said

    def entries(self) -> list[Entry]:
        """Returns all entries, the least recently used first."""
        found = []
        for path in self.folder.glob("*-*"):
            if not _ENTRY.fullmatch(path.name):
                continue
            with suppress(OSError):  # removed meanwhile
                sizes = {file.name: file.stat() for file in path.iterdir()}
                used = sizes[_INDEX].st_mtime if _INDEX in sizes else 0.0
                found.append(Entry(path, sum(one.st_size for one in sizes.values()), used))
        return sorted(found, key=lambda entry: (entry.used, entry.path.name))

    def trim(self, limit: int) -> int:
        """Remove the least recently used entries until `limit` bytes are left, and what killed
        processes have left behind. Returns the number of removed entries."""
        for stale in (*self.folder.glob(f"{_FRESH}*"), *self.folder.glob(f"{_RETIRED}*")):
            with suppress(OSError):
                if time.time() - stale.stat().st_mtime > _DAY:
                    shutil.rmtree(stale, ignore_errors=True)
        found = self.entries()
        held, gone = sum(entry.size for entry in found), 0
        for entry in found:
            if held <= limit:
                break
            self._retire(entry.path)
            held -= entry.size
            gone += 1
        return gone

    def clear(self) -> int:
        """Remove all entries and whatever is half-written; returns how many entries there were.

        Raises OutputError if one cannot be removed.
        """
        gone = self.trim(-1)
        for pattern in (f"{_FRESH}*", f"{_RETIRED}*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)
        if left := self.entries():
            raise OutputError(f"cannot remove {left[0].path}: look at the folder's permissions")
        return gone

    def _place(self, stage: str, key: str) -> Path:
        return self.folder / f"{stage}-{key}"

    def _retire(self, path: Path) -> None:
        """Remove an entry: hide it in one step, then delete it. No process finds half of it."""
        with suppress(OSError):
            retired = Path(tempfile.mkdtemp(prefix=_RETIRED, dir=self.folder))
            with suppress(OSError):
                path.rename(retired / path.name)
            shutil.rmtree(retired, ignore_errors=True)


def open_cache(wanted: bool = True) -> Cache | None:
    """Returns the user's cache; None if the user wants none, or has no home for it. Nothing is made
    on disk.

    Raises UsageError for an invalid size.
    """
    given = os.environ.get(FOLDER)
    if not wanted or given == "":
        return None
    size = os.environ.get(SIZE) or DEFAULT_GB
    try:
        limit = int(float(size) * 1e9)
    except (ValueError, OverflowError):
        raise UsageError(f"{SIZE} is {size!r}; give gigabytes, as 10") from None
    folder = expanded(given).absolute() if given else default_folder()
    return None if folder is None else Cache(folder, limit)


def default_folder() -> Path | None:
    """Returns ~/.cache/goldfold/stages, or the same under XDG_CACHE_HOME; None where there is no
    home."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "goldfold" / "stages"
    found = home()
    return None if found is None else found / ".cache" / "goldfold" / "stages"


def key(**parts: Any) -> str:
    """Returns the sha256, in hex, of JSON: the inputs of a stage, each part under its name."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _seal(folder: Path) -> int:
    """Write the index of all that lies in `folder`; returns its bytes."""
    files = {
        path.name: {"sha256": _digest(path), "size": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    (folder / _INDEX).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in folder.iterdir())


def _check(folder: Path) -> None:
    """Raise Damaged unless `folder` holds what its index says; FileNotFoundError if there is no
    such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        wanted = {str(name): (entry["sha256"], entry["size"]) for name, entry in index.items()}
    except FileNotFoundError:
        raise Damaged(f"{_INDEX} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{_INDEX} cannot be read") from None
    found = {path.name for path in folder.iterdir()} - {_INDEX}
    if odd := sorted(found ^ wanted.keys()):
        raise Damaged(f"{odd[0]} is {'too many' if odd[0] in found else 'missing'}")
    for name, (digest, size) in wanted.items():
        try:
            if (folder / name).stat().st_size != size or _digest(folder / name) != digest:
                raise Damaged(f"{name} has been changed")
        except FileNotFoundError:
            raise Damaged(f"{name} is missing") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
