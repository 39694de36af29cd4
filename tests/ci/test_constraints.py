"""What is installed: exact versions, with the sha256 of every file, and CI that resolves them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def versions(name: str) -> list[str]:
    """The requirements of a file, without their hashes; a package may have one a platform."""
    lines = (ROOT / name).read_text("utf-8").replace(" \\\n    --hash", " --hash").splitlines()
    return [line.partition(" --hash")[0] for line in lines if line and not line.startswith("#")]


def test_every_version_is_exact_and_every_file_has_its_hash() -> None:
    exact = versions("constraints.txt")
    assert exact == versions("constraints-hashed.txt")
    for line in exact:
        assert [one.operator for one in Requirement(line).specifier] == ["=="], line
    text = (ROOT / "constraints-hashed.txt").read_text("utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert len(entries) == len(exact)
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry


def test_every_dependency_is_among_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    exact = [Requirement(line) for line in versions("constraints.txt")]
    extras = project["optional-dependencies"].values()
    for line in (*project["dependencies"], *(one for extra in extras for one in extra)):
        asked = Requirement(line)
        if asked.name != "goldfold":
            held = [next(iter(r.specifier)).version for r in exact if r.name == asked.name]
            assert held and all(asked.specifier.contains(v, prereleases=True) for v in held), line


def test_the_pipeline_resolves_them_anew_from_the_ordinary_index() -> None:
    assert "\nmake resolve\n" in (ROOT / ".ci/run").read_text("utf-8")
    assert "make resolve" in (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    ordinary = (ROOT / ".ci/ordinary").read_text("utf-8")
    for name in ("PIP_CONFIG_FILE", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        assert name in ordinary
    resolve = (ROOT / ".ci/resolve").read_text("utf-8")
    assert "--dry-run --ignore-installed" in resolve and "\n. .ci/ordinary\n" in resolve
