"""Where artifacts are made and put: hidden folders and whose they are, and one that is replaced
while others look."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from goldfold.exporter.artifact import bundle, scratch
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.errors import OutputError
from goldfold.exporter.system import exchange
from tests.exporter.test_bundle import make

ROOT = Path(__file__).parents[2]


# --- where artifacts go


def test_output_folder_is_made_and_tried(tmp_path: Path) -> None:
    bundle.check_output(tmp_path / "new" / "out", ["a-fp32"], force=False)
    assert (tmp_path / "new" / "out").is_dir()
    (tmp_path / "file").write_text("x")
    for out, force in ((tmp_path / "file", True), (tmp_path / "file" / "below", False)):
        with pytest.raises(OutputError, match="file"):
            bundle.check_output(out, ["a-fp32"], force)


def test_output_folder_with_other_things_needs_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.tex.*--force"):
        bundle.check_output(tmp_path, ["a-fp32"], force=False)
    bundle.check_output(tmp_path, ["a-fp32"], force=True)
    make(tmp_path / "b-fp32")
    bundle.check_output(tmp_path, ["a-fp32"], force=False)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["a-fp32", "a-fp32.failed"])
def test_what_is_no_artifact_is_never_replaced(name: str, force: bool, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match=f"{name} is in the way"):
        bundle.check_output(tmp_path, ["a-fp32"], force)


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def test_scratch_is_gone_whatever_happens(tmp_path: Path) -> None:
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), bundle.scratch(tmp_path) as folder:
            (folder / "half").mkdir()
            (folder / "half" / "made").write_text("x")
            raise error
        assert not names(tmp_path)


def test_scratch_clears_after_the_dead_and_spares_the_living(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    spared = {f".goldfold-{os.getpid()}-mine", f".goldfold-{os.getppid()}-theirs",
              ".goldfold-notes", ".goldfold-99999999999999999999-x", ".other-1-x"}  # fmt: skip
    for name in (*spared, f".goldfold-{ended.pid}-dead"):
        (tmp_path / name).mkdir()
    with bundle.scratch(tmp_path) as folder:
        assert names(tmp_path) == spared | {folder.name}
    assert names(tmp_path) == spared


# --- publishing


def publish(out: Path, passed: bool, mark: str) -> Path:
    with bundle.scratch(out) as scratch:
        built = make(scratch / "a-fp32", passed)
        (built / "mark").write_text(mark)
        return bundle.publish(built, out, "a-fp32", passed)


def test_passed_artifact_takes_its_place_and_clears_the_failed_one(tmp_path: Path) -> None:
    assert publish(tmp_path, False, "1") == tmp_path / "a-fp32.failed"
    assert publish(tmp_path, True, "2") == tmp_path / "a-fp32"
    assert names(tmp_path) == {"a-fp32"}
    publish(tmp_path, True, "3")
    assert (tmp_path / "a-fp32" / "mark").read_text() == "3"
    assert names(tmp_path) == {"a-fp32"}


def test_failed_artifact_leaves_the_good_one(tmp_path: Path) -> None:
    publish(tmp_path, True, "good")
    publish(tmp_path, False, "bad")
    publish(tmp_path, False, "worse")
    assert (tmp_path / "a-fp32" / "mark").read_text() == "good"
    assert (tmp_path / "a-fp32.failed" / "mark").read_text() == "worse"
    assert names(tmp_path) == {"a-fp32", "a-fp32.failed"}


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_publish_that_breaks_off_leaves_the_old_one(
    error: BaseException, exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, True, "old")
    rename = Path.rename

    def breaks(self: Path, target: Path) -> Path:
        if self.parent.name.startswith(".goldfold-"):
            raise error
        return rename(self, target)

    def exchange(one: Path, other: Path) -> bool:
        if exchanges:
            raise error
        return False

    monkeypatch.setattr(Path, "rename", breaks)
    monkeypatch.setattr("goldfold.exporter.artifact.scratch.exchange", exchange)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        publish(tmp_path, True, "new")
    assert (tmp_path / "a-fp32" / "mark").read_text() == "old"
    assert names(tmp_path) == {"a-fp32"}


# --- whose a hidden folder is

HOLDER = """
import sys
from pathlib import Path
from goldfold.exporter.artifact.bundle import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "half-made").write_text("x")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def hold(out: Path, *before: str) -> tuple[subprocess.Popen[str], str]:
    """A process that works in a hidden folder of `out`, and that folder's name."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", HOLDER, str(out)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_folder_is_its_process_s_while_that_runs_and_nobody_s_afterwards(tmp_path: Path) -> None:
    process, name = hold(tmp_path)
    try:
        with bundle.scratch(tmp_path) as mine:
            assert names(tmp_path) == {name, mine.name}
        assert (tmp_path / name / "half-made").exists()
    finally:
        end(process)
    with bundle.scratch(tmp_path) as mine:
        assert names(tmp_path) == {mine.name}


def test_a_process_of_another_container_keeps_its_folder(tmp_path: Path) -> None:
    """Its number means nothing here: there it is 1 or so, or one that nobody has."""
    unshare = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("no process may have numbers of its own here")
    process, name = hold(tmp_path, *unshare)
    try:
        assert name.split("-")[1] in "123456789"
        fresh = tmp_path / name.replace(name.split("-")[1], "999999999", 1)
        (tmp_path / name).rename(fresh)  # a number that nobody has
        with bundle.scratch(tmp_path):
            assert (fresh / "half-made").exists()
    finally:
        end(process)
        time.sleep(0.2)  # its child is killed with it, and takes as long to be gone
    with bundle.scratch(tmp_path) as mine:
        assert names(tmp_path) == {mine.name}


def other_kernel(out: Path) -> Path:
    folder = out / ".goldfold-999999999-00000000-x"
    (folder / "deep").mkdir(parents=True)
    (folder / "owner.lock").write_text("")
    return folder


def test_what_another_kernel_left_is_removed_after_a_day(tmp_path: Path) -> None:
    folder = other_kernel(tmp_path)
    with bundle.scratch(tmp_path):
        assert folder.exists()
    old = time.time() - 100_000
    for path in (folder / "deep", folder / "owner.lock", folder):
        os.utime(path, (old, old))
    (folder / "deep" / "file").write_text("it works on")
    with bundle.scratch(tmp_path):
        assert folder.exists()
    os.utime(folder / "deep" / "file", (old, old))
    os.utime(folder, (old, old))
    with bundle.scratch(tmp_path):
        assert not folder.exists()


def test_without_locks_numbers_must_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(number: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(scratch, "_flock", lacks)
    kernel = scratch._kernel()
    living = tmp_path / f".goldfold-{os.getppid()}-{kernel}-x"
    dead = tmp_path / f".goldfold-999999999-{kernel}-x"
    for folder in (living, dead):
        folder.mkdir()
        (folder / "owner.lock").write_text("")
    with bundle.scratch(tmp_path) as mine:
        assert names(tmp_path) == {living.name, mine.name}


def test_a_hidden_folder_that_is_a_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years")
    (tmp_path / ".goldfold-999999999-x").symlink_to("precious")
    with bundle.scratch(tmp_path):
        pass
    assert (tmp_path / "precious" / "thesis.tex").exists()


# --- exchanged


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "mark").write_text(name)
    if not exchange.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange folders")
    assert [(tmp_path / name / "mark").read_text() for name in "ab"] == ["b", "a"]
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "nowhere")


def test_where_nothing_can_be_exchanged_it_is_done_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "exchange", lambda one, other: False)
    publish(tmp_path, True, "1")
    publish(tmp_path, True, "2")
    assert (tmp_path / "a-fp32" / "mark").read_text() == "2"
    assert names(tmp_path) == {"a-fp32"}


def test_what_came_in_the_way_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    with bundle.scratch(tmp_path) as room:
        built = make(room / "a-fp32")
        (tmp_path / "a-fp32").mkdir()
        (tmp_path / "a-fp32" / "diary.txt").write_text("dear diary")
        with pytest.raises(OutputError, match="in the way"):
            bundle.publish(built, tmp_path, "a-fp32", True)
    assert (tmp_path / "a-fp32" / "diary.txt").exists()


PUBLISHER = """
import sys
from pathlib import Path
from goldfold.exporter.artifact import bundle, scratch
from tests.exporter.test_bundle import make
out, count, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if way == "steps":
    scratch.exchange = lambda one, other: False
for turn in range(count):
    with bundle.scratch(out) as room:
        built = make(room / "a-fp32", extra=f"{sys.argv[4]} {turn}")
        bundle.publish(built, out, "a-fp32", True)
"""


@pytest.mark.parametrize("way", ["exchange", "steps"])
def test_whoever_looks_finds_one_whole_artifact_and_whoever_puts_one_is_not_refused(
    way: str, tmp_path: Path
) -> None:
    make(tmp_path / "a-fp32", extra="first")
    if way == "exchange" and exchange._call() is None:
        pytest.skip("this system cannot exchange folders")
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(tmp_path), "30", way, str(number)],
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    looks, absent, seen = 0, 0, set()
    while any(process.poll() is None for process in publishers):
        looks += 1
        if not (tmp_path / "a-fp32").is_dir():
            absent += 1
            continue
        if way == "exchange":
            opened = open_bundle(tmp_path / "a-fp32")
            assert opened.verdict is not None
            seen.add(opened.manifest.digest)
    for process in publishers:
        assert process.wait() == 0, process.communicate()[1]
    assert names(tmp_path) == {"a-fp32"}
    assert open_bundle(tmp_path / "a-fp32").verdict is not None
    if way == "exchange":
        assert looks > 20 and len(seen) > 3 and absent == 0


def test_readers_try_again_when_the_artifact_was_replaced_under_their_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a", extra="earlier")
    make(tmp_path / "b", extra="later, and longer")
    read = bundle.read_manifest

    def replaced(path: Path) -> bundle.Manifest:
        manifest = read(path)
        if (tmp_path / "b").exists():  # once, between the manifest and the files
            (tmp_path / "a").rename(tmp_path / "c")
            (tmp_path / "b").rename(tmp_path / "a")
        return manifest

    monkeypatch.setattr(bundle, "read_manifest", replaced)
    opened = open_bundle(tmp_path / "a")
    assert opened.manifest == read(tmp_path / "a")
