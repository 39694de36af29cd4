"""An artifact in ONNX Runtime Web: under Node, and in a headless Chromium on the page of the layout
for browsers. The program is a child of this process, and ends with it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter.errors import TargetError
from goldfold.exporter.system.files import expanded
from goldfold.targets.onnxruntime import npm
from goldfold.targets.onnxruntime.loopback import Loopback

NODE, CHROMIUM = "node", "chromium"
_VARIABLES = {NODE: "GOLDFOLD_NODE", CHROMIUM: "GOLDFOLD_CHROMIUM"}
"""The variable that names a program."""
_NAMES = {NODE: ("node",), CHROMIUM: ("chromium", "chromium-browser", "google-chrome")}
_LEAST = 20
"""The least version of Node: the first whose `fetch` and `crypto` are as in browsers."""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--enable-logging=stderr", "--window-size=800,600",
)  # fmt: skip
"""No sandbox, which root and most containers lack: the only page that is opened is goldfold's own.
No shared memory in /dev/shm, which is 64 MB in a container."""
_PATIENCE = 900.0
"""The most seconds for one answer. EmbeddingGemma's batch of 2,048 tokens takes one thread 60."""
_GRACE = 5.0
_SAMPLE, _SHARE = 0.1, 50
"""Seconds between two looks at the memory, at least; and so many times as long as one look, which
takes the kernel some milliseconds a gigabyte, while the program waits."""


def absent(place: str) -> str | None:
    """Returns why a program cannot be started on this machine; None if it can."""
    found, named = program(place), os.environ.get(_VARIABLES[place])
    if found is None and named:
        return f"{_VARIABLES[place]} names no program: {named[:200]}"
    if found is None:
        names = " or ".join(_NAMES[place])
        return f"there is no {names} on PATH; install it, or name it by {_VARIABLES[place]}"
    if place == NODE and (major := _major(found)) < _LEAST:
        return f"{found} is Node {major or 'of an unknown version'}, and {_LEAST} is the least"
    return None


def program(place: str) -> str | None:
    """Returns the absolute path of the program for a place; None if there is none."""
    named = os.environ.get(_VARIABLES[place])
    names = (str(expanded(named)),) if named else _NAMES[place]
    found = next(filter(None, map(shutil.which, names)), None)
    return found and str(Path(found).absolute())


def _major(node: str) -> int:
    try:
        said = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return 0
    found = re.match(r"v(\d+)\.", said.stdout)
    return int(found.group(1)) if found else 0


class Opened:
    """An artifact that is open in Node or Chromium (targets/base.py, Elsewhere)."""

    facts: Mapping[str, Any]

    def __init__(
        self, place: str, laid: Path, threads: int, flags: Sequence[str] = (), query: str = "cpu"
    ) -> None:
        """Opens the folder `laid`, in the layout for browsers.

        `flags` are further ones of the program; with `query` "webgpu" the page uses that where it
        can. Raises TargetError if the program does not start, or says nothing.
        """
        self.place, self._peak = place, 0
        self._room = tempfile.TemporaryDirectory(prefix="goldfold-", ignore_cleanup_errors=True)
        room = Path(self._room.name)
        self._server = Loopback(laid)
        self._said = room / "said.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        try:
            words = self._words(room, laid, threads, query, flags)
            self._process = start(words, room, self._said)
            self._keeper = _keeper(self._process.pid, room)
            threading.Thread(target=self._watch, args=(self._process.pid,), daemon=True).start()
            self.facts = self._answer()
        except OSError as error:
            self.close()
            raise TargetError(f"{place} does not start: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        """Runs the artifact there. Raises TargetError if the program fails."""
        job = {"ids": input_ids.tolist(), "mask": attention_mask.tolist()}
        found = self._done(job | ({"output": output} if output else {}))
        if not isinstance(found, np.ndarray):
            raise TargetError(f"{self.place} answers without vectors")
        return found

    def tokenize(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Returns the token ids of texts with their prompts, cut to `length`."""
        asked = [{"text": text, "length": length} for text in texts]
        found = self._done({"tokenize": asked})
        ids = found.get("ids") if isinstance(found, dict) else None
        if not isinstance(ids, list) or not all(isinstance(one, list) for one in ids):
            raise TargetError(f"{self.place} answers without token ids")
        return ids

    def peak(self) -> int | None:
        """Returns the most bytes that the program and its children have held: memory that several
        share counts once. None where this system does not tell."""
        return self._peak or None

    def said(self) -> str:
        """Returns what the program has printed; of Chromium, what its console shows as well."""
        with suppress(OSError):
            return self._said.read_text("utf-8", "replace")
        return ""

    def close(self) -> None:
        """End the program and all of its children, and remove its files."""
        process, self._process = self._process, None
        if process is not None:
            end(process)
            if self._keeper is not None:
                self._keeper.kill()
                self._keeper.communicate()
            self._server.close()
            self._room.cleanup()
        elif self._said.parent.exists():
            self._server.close()
            self._room.cleanup()

    def _words(
        self, room: Path, laid: Path, threads: int, query: str, flags: Sequence[str]
    ) -> list[str]:
        found = program(self.place)
        if found is None:
            raise TargetError(f"{self.place}: {absent(self.place)}")
        if self.place == NODE:
            script = room / "node.mjs"  # beside the modules that it imports
            for name in (script.name, "goldfold.mjs", "verify.mjs"):
                shutil.copyfile(npm.PAGE / name, room / name)
            (room / "runtime").mkdir()
            shutil.copyfile(laid / npm.TOKENS, room / npm.TOKENS)
            (room / "node_modules").symlink_to(npm.modules().absolute(), target_is_directory=True)
            return [found, *flags, str(script), self._server.address, str(threads)]
        page = f"{self._server.address}index.html?verify={query}&threads={threads}"
        return [found, *FLAGS, f"--user-data-dir={room / 'profile'}", *flags, page]

    def _done(self, job: dict[str, Any]) -> Any:
        self._server.ask(job)
        found = self._answer()
        if isinstance(found, dict) and "error" in found:
            raise TargetError(f"{self.place}: {found['error']}")
        return found

    def _answer(self) -> Any:
        """Returns the next answer. Raises TargetError where the program has ended, or is silent."""
        begun = time.monotonic()
        while time.monotonic() - begun < _PATIENCE:
            found = self._server.answer(0.5)
            if found is not None:
                return found
            if self._process is None or self._process.poll() is not None:
                code = None if self._process is None else self._process.returncode
                raise TargetError(f"{self.place} ended (exit code {code}){self._last()}")
            if crash := _CRASH.search(self.said()):
                raise TargetError(f"{self.place}: its page crashed: {crash.group(0)[:200]}")
        raise TargetError(f"{self.place} gave no answer in {_PATIENCE:.0f} s{self._last()}")

    def _last(self) -> str:
        lines = [line.strip() for line in self.said().splitlines() if line.strip()]
        return f": {lines[-1][:200]}" if lines else ""

    def _watch(self, leader: int) -> None:
        while self._process is not None:
            begun = time.monotonic()
            self._peak = max(self._peak, _held(leader))
            time.sleep(max(_SAMPLE, _SHARE * (time.monotonic() - begun)))


_CRASH = re.compile(r"Oops|Renderer process (crashed|was killed)|V8 process OOM.*", re.IGNORECASE)


_KEEPER = """
import os, shutil, sys
sys.stdin.read()
try:
    os.killpg(int(sys.argv[1]), 9)
finally:
    shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


def _keeper(leader: int, room: Path) -> subprocess.Popen[bytes] | None:
    """Start a process that ends the program's group, and removes its files, when this process
    dies, however that happens: its standard input ends then. None where the system has no
    groups."""
    if not hasattr(os, "killpg"):
        return None
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _KEEPER, str(leader), str(room)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def start(words: Sequence[str], room: Path, said: Path) -> subprocess.Popen[bytes]:
    """Start a program in the folder `room`, as the head of a group; it prints into the file `said`.

    Its temporary files go into `room` as well, by a relative path: Chromium puts a socket there,
    and aborts where a socket's path has more than 107 bytes (Linux; 103 on macOS).
    """
    with said.open("wb") as log:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=room,
            env=os.environ | {"TMPDIR": "."},
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, number)
            else:
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    process.wait()
    begun = time.monotonic()
    while _has_group(process.pid) and time.monotonic() - begun < _GRACE:
        time.sleep(0.02)  # the children of one that was killed take a moment


def _has_group(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except (OSError, AttributeError):
        return False
    return True


def _held(leader: int) -> int:
    """Returns the bytes that the processes of a session hold in memory, 0 where /proc does not
    tell: the proportional set size, in which a page that n processes share counts 1/n for each."""
    total = 0
    with suppress(OSError):
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == leader:
                    rollup = (entry / "smaps_rollup").read_bytes()
                    total += int(re.search(rb"^Pss:\s+(\d+) kB", rollup, re.M)[1]) << 10  # type: ignore[index]
    return total
