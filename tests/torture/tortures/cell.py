"""Run one thing in a process of its own, in a folder of its own, with a limit on time and memory.

The process is forked, so that what is imported already is paid for once. The one that forks must
not have started threads: import all it likes, but run no runtime.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ADDRESS_SPACE = 6 << 30
"""Bytes of address space that a child may add to what it was born with. Threads' stacks and
allocators' arenas reserve gigabytes that they never touch; what is touched is measured."""
TIMED_OUT = -1000


@dataclass(frozen=True)
class Outcome:
    code: int
    """Exit code; minus the signal that ended it; TIMED_OUT."""
    out: str
    err: str
    seconds: float
    grown: int
    """Bytes: the peak of resident memory, less what was resident when it was born."""

    @property
    def sudden(self) -> bool:
        """Whether it was ended by a signal, or had to be."""
        return self.code < 0


def attempt(work: Callable[[], int], room: Path, seconds: float = 120.0) -> Outcome:
    """Call `work` in a child whose working, home and temporary folders lie in `room`."""
    for name in ("home", "tmp"):
        (room / name).mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory() as said:
        out, err = Path(said, "out"), Path(said, "err")
        sys.stdout.flush()
        sys.stderr.flush()
        born, start = _resident(), time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(work, room, out, err)
        code, usage = wait(pid, start + seconds)
        took = time.monotonic() - start
        grown = max(0, usage.ru_maxrss * 1024 - born)
        printed, complained = (
            path.read_text("utf-8", "replace") if path.exists() else "" for path in (out, err)
        )
    return Outcome(code, printed, complained, took, grown)


def _child(work: Callable[[], int], room: Path, out: Path, err: Path) -> None:
    code = 99
    try:
        os.setsid()
        for number, path in ((0, Path("/dev/null")), (1, out), (2, err)):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            handle = os.open(path, flags, 0o600)
            os.dup2(handle, number)
        os.chdir(room)
        os.environ.update(HOME=str(room / "home"), TMPDIR=str(room / "tmp"))
        os.environ["XDG_CACHE_HOME"] = str(room / "home")
        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + ADDRESS_SPACE, here + ADDRESS_SPACE))
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, until: float) -> tuple[int, resource.struct_rusage]:
    """How a child ended, which is killed at `until` on the monotonic clock: its exit code, minus
    the signal, or TIMED_OUT; and what it used."""
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        if time.monotonic() > until:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:  # so soon that it leads no group yet
                os.kill(pid, signal.SIGKILL)
            _, _, usage = os.wait4(pid, 0)
            return TIMED_OUT, usage
        time.sleep(0.01)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def goldfold(*args: object) -> Callable[[], int]:
    """The command as a person runs it: what it prints and its exit code."""

    def work() -> int:
        from functools import partial

        from goldfold.exporter.cli import app

        # Consoles are opened when the module is loaded; what they write to is looked up when used.
        return app.guarded(partial(app.app, args=[str(arg) for arg in args]), False)

    return work


def snapshot(folder: Path, besides: tuple[str, ...] = ()) -> dict[str, str]:
    """What every path below `folder` is and holds, but for the top-level names `besides`."""
    found = {}
    for top, folders, files in os.walk(folder):
        if Path(top) == folder:
            folders[:] = [name for name in folders if name not in besides]
            files = [name for name in files if name not in besides]
        for name in (*folders, *files):
            path = Path(top, name)
            found[path.relative_to(folder).as_posix()] = _held(path)
    return found


def _held(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "special"
    size = path.stat().st_size
    if size > 1 << 28:  # a file of holes
        return f"{size} bytes"
    return f"{size} bytes {hashlib.sha256(path.read_bytes()).hexdigest()}"
