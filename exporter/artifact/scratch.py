"""Scratch folders, in which artifacts are made: hidden folders beside the artifacts' place, and the
step that moves an artifact there.

A hidden folder belongs to a process as long as the process holds the lock in it. Processes of one
kernel see each other's locks, in whatever containers they run and whatever numbers those give them.
Another machine may not see them: its folder is removed after a day without a change.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from goldfold.exporter.artifact.manifest import FAILED, PIPELINE, REPORT, is_artifact, is_left
from goldfold.exporter.errors import OutputError
from goldfold.exporter.system import names
from goldfold.exporter.system.exchange import exchange
from goldfold.exporter.system.files import UNBUILT, entries, is_alive, is_full

_SCRATCH = ".goldfold-"
_RETIRED = "retired-"
_LOCK = "owner.lock"
_OWNER = re.compile(r"\.goldfold-([1-9][0-9]{0,8})-(?:([0-9a-f]{8})-)?")
_DAY = 86_400.0
_TRIES = 1000
"""Maximum number of other processes that put an artifact in the same place at the same time, each
of them only once."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def check_output(out: Path, artifacts: list[str], force: bool) -> None:
    """Refuse, before any work, an output folder that cannot be written or holds something else.

    Raises OutputError. This function deletes nothing; goldfold deletes nothing but artifacts.
    """
    check_writable(out, "--out")
    for name in artifacts:
        for path in (out / name, out / f"{name}{FAILED}"):
            if _is_strange(path):
                raise _in_the_way(path)
    if force:
        return
    beside = (*REPORT, *PIPELINE)
    ours = (_SCRATCH, *(f".{one}." for one in beside))
    others = [p.name for p in out.iterdir() if not p.name.startswith(ours)]
    others = [name for name in others if not is_left(name) and not name.endswith(UNBUILT)]
    others = [name for name in others if name not in beside]
    if others and not any(is_artifact(out / name) for name in others):
        raise OutputError(
            f"{out} holds something else ({sorted(others)[0]}); "
            "choose an empty folder, or give --force"
        )


def check_writable(folder: Path, option: str) -> None:
    """Make `folder` and try to write in it. Raises OutputError, which names the option that the
    folder came from."""
    if names.steers(os.fspath(folder)):
        raise OutputError(f"{str(folder)!r} is no name for a folder; choose another {option}")
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; give a folder with {option}")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}; choose another {option}"
        ) from None


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """Yields a hidden working folder in `out`, and removes it afterwards in every case. Folders of
    processes that have ended are removed first.

    Raises OutputError for any error in it while the disk is full: each library that writes there
    has its own message for that, and some have none.
    """
    for stale in out.glob(f"{_SCRATCH}*"):
        _clear(stale, out)
    folder, lock = None, None
    try:
        while lock is None:  # another process may remove the folder before it is locked
            folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-{_kernel()}-", dir=out))
            lock = Lock.take(folder)
        assert folder is not None
        yield folder
    except Exception as error:
        if is_full(out, error):
            raise OutputError(
                f"cannot write to {out}: No space left on device; make some, or choose another"
            ) from error
        raise
    finally:
        if folder is not None:
            _remove(folder)
        if lock is not None:
            lock.close()


# --- whose a hidden folder is


@dataclass(frozen=True)
class Lock:
    """The lock in a hidden folder, held until it is closed or its process has ended."""

    number: int | None
    """The open file; None where the file system has no locks."""

    @classmethod
    def take(cls, folder: Path) -> Lock | None:
        """Returns the lock; None if another process has it, or the folder is gone. Raises
        OSError."""
        try:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            number = os.open(folder / _LOCK, flags, 0o600)
        except FileNotFoundError:
            return None
        lock = cls(number)
        try:
            # The process that removes a folder holds its lock, so the path must be looked at again.
            if _flock(number) and os.path.samestat(os.fstat(number), (folder / _LOCK).lstat()):
                return lock
        except FileNotFoundError:
            pass
        except OSError as error:
            lock.close()
            if error.errno in _NO_LOCKS:
                return cls(None)
            raise
        lock.close()
        return None

    def close(self) -> None:
        if self.number is not None:
            with suppress(OSError):
                os.close(self.number)


def _flock(number: int) -> bool:
    """Take the lock of an open file, seen by all processes of this kernel; returns False if another
    process has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(stale: Path, out: Path) -> None:
    """Remove a hidden folder whose process has ended, and put back what the process had taken from
    its place. A folder that may still be in use stays."""
    owner = _OWNER.match(stale.name)
    if owner is None or stale.is_symlink() or not stale.is_dir():
        return
    alive = is_alive(int(owner[1]))
    if alive and not (stale / _LOCK).exists():
        return  # made this moment, or by an earlier goldfold
    with suppress(OSError):
        lock = Lock.take(stale)
        if lock is None:
            return
        try:
            # The lock of another kernel need not be seen here, nor does its process number mean
            # anything.
            ours = owner[2] in (None, _kernel())
            ended = ours and (lock.number is not None or not alive)
            if ended or _age(stale) > _DAY:
                _put_back(stale, out)
                _remove(stale)
        finally:
            lock.close()


def _remove(folder: Path) -> None:
    """Remove as much of a folder as possible. A stranger's folder may be deeper than Python
    recurses."""
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)


def _age(folder: Path) -> float:
    """Returns the seconds since anything in `folder` changed."""
    times = [folder.stat().st_mtime, *(entry.stat().st_mtime for entry in entries(folder))]
    return time.time() - max(times)


@cache
def _kernel() -> str:
    """Returns eight letters for the running kernel, from its start to its end; all containers on it
    share them."""
    try:
        said = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except (OSError, ValueError):  # not Linux: there the machine's name must do
        said = platform.node()
    return hashlib.sha256(said.strip().encode("utf-8", "replace")).hexdigest()[:8]


# --- where an artifact goes


def publish(built: Path, out: Path, name: str, passed: bool) -> Path:
    """Move a finished artifact to its place, replacing an earlier one of the same name.

    An artifact that passed goes to `out/name`, and an earlier `name.failed` is removed; one that
    failed goes to `out/name.failed`, and an earlier good one stays where it is. Where the file
    system can exchange folders, a reader always finds the earlier artifact or this one; where it
    cannot, there is none for a moment. Raises OutputError.
    """
    place = out / (name if passed else f"{name}{FAILED}")
    try:
        _put(built, place)
    except OSError as error:
        raise OutputError(f"cannot write {place}: {error.strerror}") from None
    stale = out / f"{name}{FAILED}"
    if passed and is_artifact(stale):
        with suppress(OSError):  # another process may have removed it
            stale.rename(_retired(built) / stale.name)
    return place


def _put(built: Path, place: Path) -> None:
    """Move `built` to `place`; the earlier content of `place` is then in the scratch folder."""
    for _ in range(_TRIES):
        try:
            if not os.path.lexists(place):
                built.rename(place)
                return
            if _is_strange(place):
                raise _in_the_way(place)
            if exchange(built, place) or _step_by_step(built, place):
                return
        except FileNotFoundError:  # another process has just moved the earlier artifact
            if not built.exists():
                raise
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
    raise OSError(errno.EBUSY, "other processes write there without end")


def _step_by_step(built: Path, place: Path) -> bool:
    retired = _retired(built) / place.name
    place.rename(retired)
    try:
        built.rename(place)
    except BaseException:
        # Ctrl-C too: the earlier artifact would be lost with the scratch folder.
        if not os.path.lexists(place):
            retired.rename(place)
        raise
    return True


def _retired(built: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=_RETIRED, dir=built.parent))


def _put_back(stale: Path, out: Path) -> None:
    """Put an artifact back that `publish` had taken from its place when its process was killed."""
    for retired in stale.glob(f"{_RETIRED}*/*"):
        if not retired.name.endswith(FAILED) and not os.path.lexists(out / retired.name):
            with suppress(OSError):
                retired.rename(out / retired.name)


def _is_strange(path: Path) -> bool:
    """Returns whether something lies at `path` that is no artifact; False while another process
    exchanges the artifact there."""
    for _ in range(_TRIES):
        try:
            before = path.lstat()
            if is_artifact(path):
                return False
            after = path.lstat()
        except FileNotFoundError:
            return False
        if (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns):
            return True
    return True


def _in_the_way(path: Path) -> OutputError:
    return OutputError(f"{path} is in the way and no artifact of goldfold; move it away")
