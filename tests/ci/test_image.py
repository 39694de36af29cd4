"""The Dockerfile: no builder is here, so its lines are held to the script that stands in for it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "Dockerfile").read_text("utf-8").splitlines()


def test_bases_are_pinned_by_tag_and_stages_are_known() -> None:
    stages: set[str] = set()
    for line in LINES:
        if found := re.fullmatch(r"FROM (\S+) AS (\w+)", line):
            assert found[1] in stages or re.fullmatch(r"\w+:\d+\.\d+-[\w-]+", found[1]), line
            stages.add(found[2])
        if found := re.match(r"COPY --from=(\w+)", line):
            assert found[1] in stages, line
    assert {"export", "use"} <= stages


def test_what_is_copied_is_there_and_is_all_that_a_wheel_needs() -> None:
    copied = {
        word for line in LINES if re.match(r"COPY (?!--)", line) for word in line.split()[1:-1]
    }
    assert all((ROOT / word).exists() for word in copied)
    assert {"goldfold", "exporter", "targets", "golden", "pyproject.toml", "README.md"} <= copied


def test_packages_are_installed_by_the_script_alone() -> None:
    runs = [line.removeprefix("RUN ") for line in LINES if line.startswith("RUN ")]
    script = [run for run in runs if run.startswith(".ci/image ")]
    assert len(script) == 2 and not [run for run in runs if "pip" in run]
    for run in script:
        assert run.split()[1] in ("use", "export")
    assert '.ci/image use "$image/use"' in (ROOT / ".ci/run").read_text("utf-8")
