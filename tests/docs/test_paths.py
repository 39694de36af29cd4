"""Files that pages and docstrings name are there, and the table of rooms is the house's own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.test_house import FILES, ROOMS, arrows

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PLACES = (ROOT, ROOT / "exporter", ROOT / "targets")
"""Where a path may begin, besides the folder of the file that names it."""
_PATH = re.compile(r"(?<![\w/.:@-])((?:[\w.-]+/)+(?:[\w.-]+\.(?:py|toml))?)(?![\w*<…])")
"""`folder/` or `folder/file.py`; what stands behind `git show COMMIT:` was somewhere, once."""
_MODULE = re.compile(r"python -m ((?:goldfold|tests|benchmarks)[\w.]*\w)")
_TOPS = ("exporter", "targets", "golden", "goldfold", "tests", "benchmarks", "docs")
GONE = {
    "docs/dense-head.md": {"benchmarks/dense_head/"},
    "docs/experiments.md": {
        "benchmarks/dense_head/",
        "exporter/passes/merge_parallel_matmuls.py",
        "tests/exporter/passes/test_merge_parallel_matmuls.py",
    },
    "docs/writing-a-pass.md": {"exporter/passes/drop_double_negation.py"},
}
"""What a page names because it is not there: with its last commit, or as an example."""


def inner() -> set[str]:
    """The first folders of paths that leave `exporter/` or `targets/` out."""
    return {path.name for place in PLACES[1:] for path in place.iterdir() if path.is_dir()}


def missing(file: Path) -> list[str]:
    """The paths of ours in a text that lead to no file."""
    name = file.relative_to(ROOT).as_posix()
    known, found = {*_TOPS, *inner()}, []
    for path in _PATH.findall(file.read_text("utf-8")):
        is_ours = path.partition("/")[0] in known and (path[-1] != "/" or path.startswith(_TOPS))
        if is_ours and not any((place / path).exists() for place in (*PLACES, file.parent)):
            found.append(path)
    return sorted(set(found) - GONE.get(name, set()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    assert not missing(page)


def test_files_that_sources_name_are_there() -> None:
    named = {path.relative_to(ROOT).as_posix(): missing(path) for path in FILES}
    assert not {name: paths for name, paths in named.items() if paths}


def test_a_file_that_is_gone_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.test_paths.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("`exporter/bundle.py`, `exporter/reporting/`, `artifact/encoding.py`, load.py")
    assert missing(page) == ["artifact/encoding.py", "exporter/bundle.py", "exporter/reporting/"]
    page.write_text("`exporter/artifact/bundle.py`, `git show 2d72c04:benchmarks/head.py`")
    assert not missing(page)


def test_modules_that_a_page_runs_are_there() -> None:
    for page in PAGES:
        for name in _MODULE.findall(page.read_text("utf-8")):
            place = ROOT / name.removeprefix("goldfold.").replace(".", "/")
            found = place.with_suffix(".py"), place / "__main__.py"
            assert any(file.is_file() for file in found), f"{page.name}: {name}"


def test_extras_that_are_named_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for file in (*PAGES, *FILES):
        for names in re.findall(r"(?:goldfold|'\.)\[([a-z,]+)\]", file.read_text("utf-8")):
            assert set(names.split(",")) <= project["optional-dependencies"].keys(), file


# The table of rooms -------------------------------------------------------------------------------


def rows() -> dict[str, tuple[str, str]]:
    """docs/architecture.md's rooms: what lies in each, and what it may import."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    cells = [re.split(r" \| ", line.strip("| ")) for line in table.splitlines() if "/` |" in line]
    return {dotted(room): (lies, may) for room, lies, may in cells}


def dotted(room: str) -> str:
    """A folder in backquotes as ROOMS has it, with or without `exporter/`."""
    name = room.strip("`").strip("/").replace("/", ".")
    inside = f"exporter.{name}"
    return "" if name == "goldfold" else inside if inside in ROOMS else name


def allowed(cell: str, before: list[str]) -> set[str]:
    """The rooms of a cell: names, or all in the rows above but some."""
    names = {dotted(name) for name in re.findall(r"`[^`]+`", cell)}
    if not cell.startswith("all"):
        return names
    return {room for room in before if not any(f"{room}.".startswith(f"{n}.") for n in names)}


def test_the_page_has_every_room_in_its_place() -> None:
    assert list(rows()) == list(ROOMS)
    assert all(lies.strip() and may.strip() for lies, may in rows().values())


def test_rooms_import_what_the_page_says() -> None:
    order = list(rows())
    may = {room: allowed(cell, order[: order.index(room)]) for room, (_, cell) in rows().items()}
    assert not {pair: why for pair, why in arrows().items() if pair[1] not in may[pair[0]]}
