"""Ctrl-C at any moment, once and twice: one line, exit code 130, no child left. Each in a process
of its own, which is stopped where it says that it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SAID = "interrupted; nothing half-made is left"

# A command that says where it is and waits there, in `sys.argv[1]`'s way.
COMMAND = """
import subprocess, sys, time
from contextlib import suppress
from pathlib import Path
import goldfold
from goldfold.exporter.artifact import bundle
from goldfold.exporter.cli import app
from goldfold.exporter.system import interrupt

way, out = sys.argv[1], Path(sys.argv[2])

def say(word):
    print(word, flush=True)

def work(standalone_mode):
    if way == "done":
        return 0
    with bundle.scratch(out) as room:
        (room / "half-made").write_text("x")
        try:
            if way == "swallowed":
                with suppress(BaseException):
                    say("here"), time.sleep(30)
                raise ValueError("a library made something else of it")
            if way == "destructor":
                class Fragile:
                    def __del__(self):
                        say("here"), time.sleep(30)
                Fragile()
                time.sleep(30)
            if way == "stuck":
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            say("here"), time.sleep(30)
        finally:
            if way == "cleaning":
                say("cleaning"), time.sleep(1)
            if way == "stuck":
                interrupt._PATIENCE = 0.2
                say("cleaning"), time.sleep(30)
    return 0

app.guarded, guarded = (lambda app, debug: guarded(work, debug)), app.guarded
sys.argv = ["goldfold"]
try:
    app.main()
finally:
    if way == "done":
        import atexit
        atexit.register(lambda: (say("here"), time.sleep(1)))
"""


@pytest.fixture
def start(tmp_path: Path):
    """Start `words` of Python, to be ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: str, path: str = str(ROOT)) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell that runs tests in the background makes its children deaf to the signal.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None and process.stderr is not None
    said = process.stdout.readline().strip()
    assert said == word, (said, process.stderr.read() if not said else "")


def ended(process: subprocess.Popen[str], code: int, *lines: str) -> None:
    _, err = process.communicate(timeout=30)
    assert err.splitlines() == list(lines)
    assert process.returncode == code


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("way", ["once", "swallowed", "destructor"])
def test_whatever_is_made_of_it_it_is_an_interruption(way: str, start, tmp_path: Path) -> None:
    process = start("-c", COMMAND, way, str(tmp_path))
    wait_for(process, "here")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    ended(process, 130, SAID)
    assert left(tmp_path) == []


def test_a_second_one_does_not_stop_the_clearing_up(start, tmp_path: Path) -> None:
    process = start("-c", COMMAND, "cleaning", str(tmp_path))
    wait_for(process, "here")
    process.send_signal(signal.SIGINT)
    wait_for(process, "cleaning")
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    ended(process, 130, SAID)
    assert left(tmp_path) == []


def test_one_more_after_a_while_ends_what_is_stuck_and_its_children(start, tmp_path: Path) -> None:
    process = start("-c", COMMAND, "stuck", str(tmp_path))
    wait_for(process, "here")
    process.send_signal(signal.SIGINT)
    wait_for(process, "cleaning")
    time.sleep(0.4)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (child,) = children.read_text().split() if children.exists() else ("",)
    process.send_signal(signal.SIGINT)
    ended(process, 130, "interrupted at once; the next command clears up what is half-made")
    if child:
        time.sleep(0.2)
        state = Path(f"/proc/{child}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_when_all_is_done_it_means_nothing(start, tmp_path: Path) -> None:
    process = start("-c", COMMAND, "done", str(tmp_path))
    wait_for(process, "here")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    ended(process, 0)


def test_while_modules_are_imported_it_ends_at_once(start, tmp_path: Path) -> None:
    slow = "import time\nprint('here', flush=True)\ntime.sleep(30)\n"
    (tmp_path / "typer.py").write_text(slow)
    process = start("-m", "goldfold", "targets", path=f"{tmp_path}{os.pathsep}{ROOT}")
    wait_for(process, "here")
    process.send_signal(signal.SIGINT)
    ended(process, 130, "interrupted")


def test_a_command_that_is_deaf_to_it_stays_so(start, tmp_path: Path) -> None:
    """As `nohup` and a shell's `&` have it."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        " from goldfold.exporter.system import interrupt; interrupt.running();"
        " assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    ended(start("-c", code), 0)
