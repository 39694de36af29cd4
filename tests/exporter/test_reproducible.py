"""Two exports, in other folders, with another hash seed, thread count, clock and time zone, give
the same bytes, and the bytes say nothing of the machine. Both run at once, in their processes."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.diff import differences

ROOT = Path(__file__).parents[2]
SETTINGS = (
    {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "TZ": "UTC", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"},
)

PRECISIONS = os.environ.get("GOLDFOLD_REPRODUCE", "fp16").split(",")
"""fp16 goes through most of the code; GOLDFOLD_REPRODUCE=fp32,fp16 tries more."""


@pytest.fixture(scope="module", params=PRECISIONS)
def twice(
    request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two folders of the same artifacts, for every target that builds here."""
    targets = [name for name in registry.OURS if registry.target(name).unavailable() is None]
    home = tmp_path_factory.mktemp("reproducible")
    running = []
    for index, settings in enumerate(SETTINGS):
        place = home / ("here", "somewhere-else-altogether")[index]
        model = Path(shutil.copytree(tiny, place / "models" / tiny.name))
        shift = str(index * 40_000_000)  # more than a year
        command = [sys.executable, "-m", "tests.exporter.reproduce"]
        command += [str(model), str(place / "out"), shift, request.param, *targets]
        environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
        running.append(
            (place / "out", subprocess.Popen(command, cwd=ROOT, env=environment,
             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        )  # fmt: skip
    for _, process in running:
        said, _ = process.communicate(timeout=500)
        assert process.returncode == 0, said
    first, second = (out for out, _ in running)
    assert {p.name for p in first.iterdir()} == {
        *(f"{name}-{request.param}" for name in targets),
        *bundle.REPORT,
    }
    return first, second


def test_artifacts_are_equal_to_the_byte(twice: tuple[Path, Path]) -> None:
    first, second = twice
    for folder in sorted(p for p in first.iterdir() if p.is_dir()):
        other = second / folder.name
        assert not [str(one) for one in differences(folder, other)]
        files = sorted(bundle.files_of(folder))
        assert files == sorted(bundle.files_of(other))
        for key in (*files, bundle.MANIFEST):
            assert (folder / key).read_bytes() == (other / key).read_bytes(), f"{folder.name}/{key}"


def test_bytes_say_nothing_of_the_machine(twice: tuple[Path, Path]) -> None:
    telling = {
        str(Path.home()), str(ROOT), "somewhere-else-altogether", "/tmp/", sys.prefix,
        str(twice[0].parent), f"/{getpass.getuser()}/",
    }  # fmt: skip
    if len(socket.gethostname()) > 5:  # a shorter name is in any megabyte of weights by chance
        telling.add(socket.gethostname())
    for out in twice:
        for path in (p for p in out.rglob("*") if p.is_file()):
            raw = path.read_bytes()
            for word in telling:
                for encoded in (word.encode(), word.encode("utf-16-le")):
                    assert encoded not in raw, f"{path} holds {word}"
