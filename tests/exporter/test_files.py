"""Reading what a stranger wrote: within limits, and only what is a file."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from goldfold.exporter.system import files


def test_up_to_its_limit_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert files.read_bounded(tmp_path / "a", 100) == b"x" * 100
    with pytest.raises(OSError, match="larger than 0 KiB"):
        files.read_bounded(tmp_path / "a", 99)


def test_holes_take_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(8 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="larger than 16 MiB"):
            files.read_bounded(tmp_path / "a", 16 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"),
     lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path)],
    ids=["pipe", "folder", "device", "link to nowhere", "link to itself"],
)  # fmt: skip
def test_what_is_no_file_is_refused_at_once(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(OSError):
        files.read_bounded(tmp_path / "a", 1 << 20)


def test_what_a_tokenizer_becomes_is_bounded_by_what_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b'{"normalizer": [' + b'{"type":"Lowercase"},' * (files.TOKENIZER_PARTS + 1))
    with pytest.raises(OSError, match="parts"):
        files.read_tokenizer(file)
    file.write_bytes(b"[" + b"[]," * (files.TOKENIZER_VALUES // 2 + 1))
    with pytest.raises(OSError, match="values"):
        files.read_tokenizer(file)


def test_entries_are_all_that_lies_there_but_folders(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "a" / "pipe")
    found = {files.key_of(tmp_path, entry.path) for entry in files.entries(tmp_path)}
    assert found == {"a/b/file", "link", "a/pipe"}


def test_folders_may_lie_deeper_than_python_recurses(tmp_path: Path) -> None:
    tops = [tmp_path.joinpath(*["d"] * depth) for depth in range(1, 1200)]
    for top in tops:
        top.mkdir()
    try:
        assert list(files.entries(tmp_path)) == []
    finally:
        for top in reversed(tops):  # neither does pytest, which would clear them away
            top.rmdir()


def test_too_many_entries_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ENTRIES", 3)
    for number in range(4):
        (tmp_path / str(number)).write_text("")
    with pytest.raises(OSError, match="more than 3"):
        list(files.entries(tmp_path))


def test_keys_are_utf8_and_lead_back(tmp_path: Path) -> None:
    path = tmp_path / "NOTICE — ü" / "字.txt"
    path.parent.mkdir()
    path.write_text("x")
    key = files.key_of(tmp_path, str(path))
    assert key == "NOTICE — ü/字.txt"
    assert files.place_of(tmp_path, key).read_text() == "x"


def test_identity_changes_with_every_way_to_change_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    seen = files.Identity.of(file)
    assert files.Identity.of(file) == seen
    other = tmp_path / "b"
    other.write_text("two")
    os.utime(other, ns=(seen.modified, seen.modified))
    file.rename(tmp_path / "kept")
    other.rename(file)
    assert files.Identity.of(file) != seen  # replaced by one of the same size and time
    file.rename(other)
    (tmp_path / "kept").rename(file)
    assert file.read_text() == "one"
    assert files.Identity.of(file) != seen  # and put back


def test_a_home_that_nobody_knows_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*args: object) -> object:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    assert files.expanded("~/model") == Path("~/model")
