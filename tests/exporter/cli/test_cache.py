"""`goldfold cache`, and what an export says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goldfold.exporter.system.cache import FOLDER, SIZE, Cache, key
from tests.exporter.cli.outcome import Run


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache with one entry."""
    cache = Cache(tmp_path / "stages")
    monkeypatch.setenv(FOLDER, str(cache.folder))
    cache.put("trace", key(model="one"), lambda folder: (folder / "a").write_text("x" * 1000))  # type: ignore[arg-type,return-value]
    return cache


def test_list_size_and_clear(goldfold: Run, kept: Cache) -> None:
    assert "trace" in goldfold("cache", "list").out
    (row,) = json.loads(goldfold("cache", "list", "--json").out)
    assert row["stage"] == "trace" and row["bytes"] > 1000
    assert "1 entries" in goldfold("cache", "size").out
    said = json.loads(goldfold("cache", "size", "--json").out)
    assert said == {
        "folder": str(kept.folder), "entries": 1, "bytes": row["bytes"], "limit": 10_000_000_000,
    }  # fmt: skip
    cleared = goldfold("cache", "clear")
    assert cleared.code == 0 and "1 entries removed" in cleared.out
    assert json.loads(goldfold("cache", "list", "--json").out) == []
    assert goldfold("cache", "clear").code == 0


def test_no_cache_is_no_cache(goldfold: Run) -> None:
    done = goldfold("cache", "list")  # tests/conftest.py has switched it off
    assert done.code == 2
    assert FOLDER in done.err and done.err.count("\n") == 1


def test_size_that_is_none_is_refused(
    goldfold: Run, kept: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIZE, "huge")
    done = goldfold("cache", "size")
    assert done.code == 2 and SIZE in done.err


def test_folder_of_someone_else_is_left_alone(
    goldfold: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home-work").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert goldfold("cache", "clear").code == 0
    assert (tmp_path / "home-work").is_dir()


def test_help_says_where_and_how_much(goldfold: Run) -> None:
    said = " ".join(goldfold("cache", "--help").out.split())
    assert FOLDER in said and "10" in said and "clear" in said
    assert "--no-cache" in goldfold("export", "--help").out
    assert "--no-cache" in goldfold("bisect", "--help").out
