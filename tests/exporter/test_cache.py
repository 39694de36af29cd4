"""The store itself: what goes in comes out, and what is damaged, too large or not ours does not."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest

from goldfold.exporter.errors import UsageError
from goldfold.exporter.system import cache as store
from goldfold.exporter.system.cache import Cache, Damaged, key, open_cache

KEY = key(model="one")


def put(cache: Cache, text: str = "stays", name: str = KEY) -> Path:
    def write(folder: Path) -> None:
        (folder / "a.txt").write_text(text)
        (folder / "b.bin").write_bytes(bytes(range(256)))

    cache.put("trace", name, write)
    return cache.folder / f"trace-{name}"


def get(cache: Cache, name: str = KEY) -> str | None:
    return cache.get("trace", name, lambda folder: (folder / "a.txt").read_text())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "stages")


def test_what_is_kept_is_found_under_its_key_alone(cache: Cache) -> None:
    assert get(cache) is None
    put(cache)
    assert get(cache) == "stays"
    assert get(cache, key(model="two")) is None
    assert cache.remarks() == ""
    assert [path.name for path in cache.folder.iterdir()] == [f"trace-{KEY}"]


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["a.txt", "b.bin", "index.json"])
@pytest.mark.parametrize("harm", [_flip, _cut, Path.unlink], ids=["flip", "cut", "unlink"])
def test_damage_is_found_said_in_one_line_and_mended(cache: Cache, name: str, harm) -> None:
    entry = put(cache)
    if name == "index.json" and harm is _cut:
        pytest.skip("its last byte is a line feed, which says nothing")
    harm(entry / name)
    assert get(cache) is None
    said = cache.remarks()
    assert "was damaged" in said and "\n" not in said
    assert cache.remarks() == ""
    put(cache)
    assert get(cache) == "stays"


def test_file_too_many_is_damage(cache: Cache) -> None:
    (put(cache) / "c.txt").write_text("")
    assert get(cache) is None
    assert "c.txt is too many" in cache.remarks()


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"a.txt": 1}', b"\xff", b"[" * 100_000])
def test_index_of_any_form_is_never_a_traceback(cache: Cache, raw: bytes) -> None:
    (put(cache) / "index.json").write_bytes(raw)
    assert get(cache) is None
    assert "was damaged" in cache.remarks()


def test_entry_that_makes_no_sense_is_put_away(cache: Cache) -> None:
    put(cache)

    def senseless(folder: Path) -> str:
        raise Damaged("it rhymes")

    assert cache.get("trace", KEY, senseless) is None
    assert "it rhymes" in cache.remarks()
    assert not cache.entries()


def test_second_to_come_leaves_what_is_there(cache: Cache) -> None:
    put(cache, "first")
    put(cache, "second")
    assert get(cache) == "first"
    assert cache.remarks() == ""
    assert len(list(cache.folder.iterdir())) == 1


def test_least_recently_used_go_first(cache: Cache) -> None:
    names = [key(number=number) for number in range(4)]
    for age, name in enumerate(names[:3]):
        os.utime(put(cache, name=name) / "index.json", (age, age))
    assert get(cache, names[0]) == "stays"  # now it is the youngest
    cache.limit = 3 * cache.entries()[0].size + 10
    put(cache, name=names[3])
    assert get(cache, names[1]) is None
    assert all(get(cache, name) for name in (names[0], names[2], names[3]))


def test_entry_larger_than_the_cache_is_not_kept_and_costs_no_other(cache: Cache) -> None:
    put(cache)
    cache.limit = cache.entries()[0].size
    put(cache, "x" * 5000, key(model="two"))
    assert "not kept" in cache.remarks()
    assert get(cache) == "stays"


def test_folder_that_cannot_be_made_costs_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "stages")
    put(cache)
    assert cache.remarks().startswith("; not kept: ")
    put(cache, name=key(model="two"))
    assert cache.remarks() == ""  # it has been said
    assert get(cache) is None


def test_full_disk_costs_one_line_and_leaves_nothing(cache: Cache) -> None:
    def full(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache.put("trace", KEY, full)
    assert os.strerror(errno.ENOSPC) in cache.remarks()
    assert not list(cache.folder.iterdir())


def test_nothing_but_entries_is_counted_or_removed(cache: Cache) -> None:
    put(cache)
    (cache.folder / "my-thesis").mkdir()
    (cache.folder / "my-thesis" / "text").write_text("precious")
    (cache.folder / f"{KEY}-notes").write_text("precious")
    assert len(cache.entries()) == 1
    assert cache.clear() == 1
    assert sorted(p.name for p in cache.folder.iterdir()) == [f"{KEY}-notes", "my-thesis"]


def test_what_killed_processes_left_goes_after_a_day(cache: Cache) -> None:
    put(cache)
    for name, age in (("old", 200_000), ("new", 0)):
        folder = cache.folder / f".goldfold-new-{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    cache.trim(cache.limit)
    assert [p.name for p in cache.folder.glob(".*")] == [".goldfold-new-new"]
    cache.clear()
    assert not list(cache.folder.iterdir())


def test_variables_say_where_and_how_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_cache() is None  # as tests/conftest.py has it
    monkeypatch.setenv(store.FOLDER, str(tmp_path / "here"))
    assert open_cache(False) is None
    found = open_cache()
    assert found is not None and found.folder == tmp_path / "here"
    assert found.limit == 10_000_000_000
    assert not found.folder.exists()
    monkeypatch.setenv(store.SIZE, "0.5")
    assert open_cache() == Cache(tmp_path / "here", 500_000_000)
    monkeypatch.setenv(store.SIZE, "much")
    with pytest.raises(UsageError, match="much"):
        open_cache()
    monkeypatch.delenv(store.SIZE)
    monkeypatch.delenv(store.FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_cache() == Cache(tmp_path / "goldfold" / "stages")


def test_key_is_of_the_parts_and_not_of_their_order() -> None:
    assert key(a=1, b=[2]) == key(b=[2], a=1)
    assert len({key(a=1), key(a="1"), key(b=1), key()}) == 4


def test_index_names_every_byte(cache: Cache) -> None:
    index = json.loads((put(cache) / "index.json").read_text())
    assert {name: one["size"] for name, one in index.items()} == {"a.txt": 5, "b.bin": 256}
