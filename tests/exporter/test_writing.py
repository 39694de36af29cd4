"""Files that a user names: whole or not at all, and no trap under their names is sprung."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from goldfold.exporter.errors import OutputError
from goldfold.exporter.system.writing import check_file, write_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and pipes as POSIX has them")


def put(file: Path, text: str = "new") -> None:
    write_file(file, lambda opened: opened.write(text.encode()))


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    put(file, "old")
    file.chmod(0o640)
    put(file)
    assert file.read_text() == "new" and stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    put(file, "old")

    def half(opened) -> None:
        opened.write(b"ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"cannot write .*x\.json: No space left"):
        write_file(file, half)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_a_link_that_waits_for_the_new_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".x.npy.new", ".x.npy"):
        (tmp_path / name).symlink_to(victim)
    put(tmp_path / "x.npy")
    assert victim.read_text() == "precious" and not (tmp_path / "x.npy").is_symlink()


def test_a_link_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "x.npy"
    link.symlink_to(tmp_path / "there" / "y.npy")
    check_file(link, "--save")
    put(link)
    assert link.is_symlink() and (tmp_path / "there" / "y.npy").read_text() == "new"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    check_file(pipe, "--save")
    write_file(pipe, lambda file: np.save(file, np.ones(3), allow_pickle=False))
    reader.join(20)
    assert read[0].startswith(b"\x93NUMPY") and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_device_stays_one() -> None:
    check_file(Path("/dev/full"), "--json")
    with pytest.raises(OutputError, match="/dev/full: No space"):
        put(Path("/dev/full"))
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize("name", ["a-folder", "loop", "no-such-folder/x", "x" * 300])
def test_what_cannot_be_written_is_said_before_any_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(tmp_path / "loop")
    for attempt in (lambda: check_file(tmp_path / name, "--save"), lambda: put(tmp_path / name)):
        with pytest.raises(OutputError, match="cannot write") as caught:
            attempt()
        assert "\n" not in str(caught.value)
