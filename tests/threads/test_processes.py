"""Encoders and processes: pickled, forked, sent to pools.

What goes wrong here waits for ever, so it is tried in processes of their own that have a limit.
"""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from goldfold import load
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ArtifactError, GateMissed, GoldfoldError, UsageError
from tests.threads.calls import LIMIT

ROOT = Path(__file__).parents[2]
TARGETS = ("openvino", "onnxruntime")

_START = """
import os, sys, signal, threading, time
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor
import numpy as np
from goldfold import GoldfoldError, load

texts = [f"{place} " + "word " * (place % 9) for place in range(24)]
chunks = [texts[at : at + 4] for at in range(0, 24, 4)]


def at_work(encoder):
    \"\"\"Threads that are inside the runtime, and stay there.\"\"\"
    def work():
        while True:
            encoder.embed(["some text " * 40] * 8)
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.3)


def forked(work):
    \"\"\"What a child of fork() prints on its way to an orderly end; its exit code.\"\"\"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 0
        try:
            work()
        except GoldfoldError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        except BaseException as error:
            print(f"unexpected {error!r}", flush=True)
            code = 1
        sys.exit(code)  # runs every destructor
    return os.waitpid(child, 0)[1]


def main(folder):
    encoder = load(folder)
    wanted = [encoder.embed(chunk) for chunk in chunks]
"""
_END = """

if __name__ == "__main__":
    main(sys.argv[1])
    print("end", flush=True)
    os._exit(0)  # not through the threads at work
"""


def run(tmp_path: Path, body: str, *arguments: object) -> list[str]:
    """The lines that a program prints: _START, `body` in its main, _END. Fails if it hangs."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    file = tmp_path / "program.py"
    file.write_text(_START + lines + _END, "utf-8")
    # Without ONNX Runtime's telemetry, which keeps a fork of it from ending, used or not.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(file), *map(str, arguments)],
        capture_output=True, text=True, timeout=LIMIT, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert found[-1] == "end", found
    return found[:-1]


# --- sent to other processes


_POOL = """
with ProcessPoolExecutor(2, mp.get_context({method!r})) as pool:
    found = list(pool.map(encoder.embed, chunks))
assert all(np.array_equal(a, b) for a, b in zip(found, wanted))
"""


@pytest.mark.parametrize(
    ("method", "target"),
    [("spawn", "openvino"), ("forkserver", "onnxruntime"), ("fork", "onnxruntime")],
)
def test_a_pool_of_processes_takes_an_encoder(
    method: str, target: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    run(tmp_path, _POOL.format(method=method), artifacts[target])


_REFUSED = """
with {pool} as pool:
    try:
        list(pool.map(encoder.embed, chunks))
    except GoldfoldError as error:
        print(f"{{type(error).__name__}}: {{error}}")
"""


@pytest.mark.parametrize(
    "pool", ["ProcessPoolExecutor(2, mp.get_context('fork'))", "mp.get_context('fork').Pool(2)"]
)
def test_a_pool_of_forks_is_refused_where_it_would_hang(
    pool: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    (said,) = run(tmp_path, _REFUSED.format(pool=pool), artifacts["openvino"])
    assert said.startswith("UsageError: ")
    assert "openvino was opened before this process was forked from process" in said
    assert "spawn or forkserver" in said


def test_tasks_share_what_the_first_of_them_opened(artifacts: dict[str, Path]) -> None:
    sent = pickle.dumps(load(artifacts["openvino"]).embed)
    one, other = pickle.loads(sent).__self__, pickle.loads(sent).__self__
    assert one is other
    assert one is not pickle.loads(pickle.dumps(load(artifacts["openvino"], threads=1)))


@pytest.mark.parametrize("target", TARGETS)
def test_a_pickled_encoder_is_small_and_gives_the_same(
    target: str, artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(artifacts[target], tmp_path / "artifact"))
    monkeypatch.chdir(tmp_path)
    encoder = load("artifact", threads=1)
    sent = pickle.dumps(encoder)
    assert len(sent) < 100_000 < sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.chdir(tmp_path.parent)  # a relative path is one from where it was opened
    found: Encoder = pickle.loads(sent)
    assert found is not encoder
    assert found.contract == encoder.contract
    np.testing.assert_array_equal(found.embed("a text"), encoder.embed("a text"))


def test_nothing_is_opened_before_it_is_called(artifacts: dict[str, Path], tmp_path: Path) -> None:
    """An error while a task is received would end a worker, and leave its pool waiting."""
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "artifact"))
    sent = pickle.dumps(load(folder))
    shutil.rmtree(folder)
    found = pickle.loads(sent)
    with pytest.raises(ArtifactError, match="cannot be read"):
        found.embed("a text")
    with pytest.raises(ArtifactError, match="no such folder"):
        found.run(np.ones((1, 3), int), np.ones((1, 3), int))


def test_another_artifact_in_the_same_place_is_refused(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "artifact"))
    sent = pickle.dumps(load(folder))
    shutil.rmtree(folder)
    shutil.copytree(artifacts["openvino"], folder)
    with pytest.raises(ArtifactError, match="has changed since it was opened; load it again"):
        pickle.loads(sent).embed("a text")


def test_a_copy_is_the_encoder_itself(artifacts: dict[str, Path]) -> None:
    encoder = load(artifacts["onnxruntime"], threads=1)
    assert copy.copy(encoder) is encoder
    assert copy.deepcopy({"model": [encoder]})["model"][0] is encoder


# --- forked


linux = pytest.mark.skipif(sys.platform != "linux", reason="a fork of a Mac's frameworks may crash")


_FORK = """
{busy}
def child():
    assert all(np.array_equal(encoder.embed(c), w) for c, w in zip(chunks, wanted))
    assert all(np.array_equal(load(folder).embed(c), w) for c, w in zip(chunks, wanted))
    print("served", flush=True)
for _ in range(2):
    assert forked(child) == 0
"""


@linux
@pytest.mark.parametrize("busy", ["", "at_work(encoder)"], ids=["idle", "at-work"])
def test_a_fork_opens_onnxruntime_again(
    busy: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    assert run(tmp_path, _FORK.format(busy=busy), artifacts["onnxruntime"]) == ["served"] * 2


_FORK_REFUSED = """
{busy}
def use():
    encoder.embed("a text")
def again():
    load(folder)
def drop():
    nonlocal encoder
    del encoder
    print("dropped", flush=True)
for work in (use, again, drop, int):
    assert forked(work) == 0
"""


@linux
@pytest.mark.parametrize("busy", ["", "at_work(encoder)"], ids=["idle", "at-work"])
def test_a_fork_refuses_openvino_and_ends(
    busy: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    """Asked, opened anew, thrown away, or left alone: none of it waits for threads that are not
    there."""
    body = _FORK_REFUSED.format(busy=busy)
    used, again, dropped = run(tmp_path, body, artifacts["openvino"])
    for said in (used, again):
        assert said.startswith("UsageError: ")
        assert "openvino was opened before this process was forked" in said
        assert said.endswith("or fork before the first artifact is opened")
    assert dropped == "dropped"


@linux
def test_a_fork_from_before_opens_what_it_likes(artifacts: dict[str, Path], tmp_path: Path) -> None:
    body = """
def child():
    load(folder).embed("a text")
    print("served", flush=True)
assert forked(child) == 0
"""
    start = _START.replace("    encoder = load(folder)\n", "").replace(
        "    wanted = [encoder.embed(chunk) for chunk in chunks]\n", ""
    )
    lines = "".join(f"    {line}\n" for line in body.strip("\n").splitlines())
    file = tmp_path / "early.py"
    file.write_text(start + lines + _END, "utf-8")
    done = subprocess.run(
        [sys.executable, str(file), str(artifacts["openvino"])],
        capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.split() == ["served", "end"], done.stderr


_LOADER = """
import os, sys, signal
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import load
load.embed(["a text"])
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        load.embed(["a text"])
    except RuntimeError as error:
        print(error, flush=True)
    sys.exit(0)  # through every destructor
assert os.waitpid(child, 0)[1] == 0
"""


@linux
def test_the_loader_that_travels_refuses_a_fork(artifacts: dict[str, Path]) -> None:
    code = [sys.executable, "-c", _LOADER, str(artifacts["openvino"])]
    done = subprocess.run(code, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert "forked; use spawn instead" in done.stdout


# --- errors on their way back


class Odd(UsageError):
    """As a subclass may be: made of something else than what it says."""

    def __init__(self, places: list[int]) -> None:
        self.places = places
        super().__init__(f"text {places[0]} is odd")


@pytest.mark.parametrize("error", [Odd([3, 4]), ArtifactError("out is damaged"), GateMissed()])
def test_errors_come_back_from_a_process(error: GoldfoldError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), found.code) == (type(error), str(error), error.code)
    assert vars(found) == vars(error)
