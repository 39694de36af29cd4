"""The pool: nobody shares, everybody is served, and nothing that happens makes it smaller."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from goldfold.targets.pool import Pool
from tests.threads.calls import LIMIT


class Thing:
    """Counts who is inside."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.inside = 0
        self.most = 0

    def visit(self, seconds: float = 0.0) -> Thing:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(seconds)
        self.inside -= 1
        return self


@pytest.fixture(autouse=True)
def none_made() -> None:
    Thing.made = 0


def holds(pool: Pool[Thing], size: int) -> None:
    """Assert that `size` callers are served at once, and no more."""
    inside = threading.Barrier(size + 1)
    leave = threading.Event()

    def stay(thing: Thing) -> None:
        inside.wait(LIMIT)
        leave.wait(LIMIT)

    guests = [threading.Thread(target=pool.use, args=(stay,), daemon=True) for _ in range(size)]
    for guest in guests:
        guest.start()
    inside.wait(LIMIT)  # broken, and an error, if one of them is never served
    late: list[Thing] = []
    further = threading.Thread(target=lambda: late.append(pool.use(Thing.visit)), daemon=True)
    further.start()
    further.join(0.05)
    assert not late, f"{size + 1} at once in a pool of {size}"
    leave.set()
    for guest in (*guests, further):
        guest.join(LIMIT)
        assert not guest.is_alive()
    assert late


@pytest.mark.parametrize("size", [1, 2, 5])
def test_as_many_at_once_as_it_is_large(size: int) -> None:
    holds(Pool(Thing, size), size)
    assert Thing.made == size


def test_a_single_caller_keeps_to_one_thing() -> None:
    pool = Pool(Thing, 4)
    assert len({id(pool.use(Thing.visit)) for _ in range(20)}) == 1


def test_a_thousand_threads_share_three_things() -> None:
    pool = Pool(Thing, 3)
    found: list[Thing] = []

    def work() -> None:
        found.append(pool.use(lambda thing: thing.visit(0.0005)))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(found) == 1000 and Thing.made == 3
    assert max(thing.most for thing in found) == 1


def test_an_error_of_making_is_raised_at_once() -> None:
    def fail() -> Thing:
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        Pool(fail, 2)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_thing_comes_back_from_an_error(kind: type[BaseException]) -> None:
    pool = Pool(Thing, 2)

    def fail(thing: Thing) -> None:
        raise kind("while it was used")

    for _ in range(10):
        with pytest.raises(kind):
            pool.use(fail)
    holds(pool, 2)
    assert Thing.made == 2


_INTERRUPTED = """
import random, signal, time
from goldfold.targets.pool import Pool
from tests.threads.test_pool import Thing, holds

pool, rng = Pool(Thing, 2), random.Random(3)
until = time.monotonic() + 2.0
caught, armed = 0, False

def interrupt(*_):
    if armed:  # else it is the loop's own turn, which nothing would catch
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
while time.monotonic() < until:
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(5e-5, 5e-4))
        while time.monotonic() < until:  # an interrupt of a finalizer's is not raised
            pool.use(id)
        armed = False
    except KeyboardInterrupt:
        caught += 1
armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
assert caught > 500, caught
holds(pool, 2)
"""


_WAITING = """
import os, signal, threading, time
from goldfold.targets.pool import Pool
from tests.threads.calls import LIMIT
from tests.threads.test_pool import Thing, holds

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
pool, leave = Pool(Thing, 1), threading.Event()
guest = threading.Thread(target=pool.use, args=(lambda thing: leave.wait(LIMIT),), daemon=True)
guest.start()
time.sleep(0.05)
pause = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
try:
    pause.start()
    pool.use(id)
    raise SystemExit("it did not wait")
except KeyboardInterrupt:
    pass
leave.set()
guest.join(LIMIT)
holds(pool, 1)
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(_INTERRUPTED, id="at any of some 2,000 steps, a few inside the pool itself"),
        pytest.param(_WAITING, id="in a wait, while all are in use by others"),
    ],
)
def test_no_interrupt_makes_it_smaller(program: str) -> None:
    """SIGINT in the main thread.

    In a process of its own: the collector may run at any step as well, and what earlier tests left
    takes long to look through, and has destructors in C++, which no exception may leave.
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
