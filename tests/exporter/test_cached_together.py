"""Two processes that export one model to one place with one cache, at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from goldfold.exporter.artifact import bundle
from goldfold.exporter.driver import cached_stages
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.system.cache import Cache
from tests.conftest import Exported

ROOT = Path(__file__).parents[2]
EXPORTING = """
import os, sys, time
from pathlib import Path
from types import ModuleType

model, home, own = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
os.environ["GOLDFOLD_CACHE"] = str(home / "stages")

from goldfold.exporter.driver import cached_stages, exporting, preparing
from goldfold.exporter.system.cache import Cache
from goldfold.golden import store

def tracing(source, **options):
    # Each waits for the other, so that both have found nothing, and both keep what they made.
    (home / f"{own}.traces").touch()
    while len(list(home.glob("*.traces"))) < 2:
        time.sleep(0.01)
    return cached_stages.find_trace(Cache(home / "given"), source)

# No torch: what is tested is how two processes get on.
for name, work in ("trace", tracing), ("simplify", lambda program: None):
    stub = sys.modules[f"goldfold.exporter.frontend.{name}"] = ModuleType(name)
    setattr(stub, name, work)
goldens = store.load(home / "golden").within(20)
exporting.obtain_goldens = lambda *args: goldens
texts = preparing.texts.calibration
preparing.texts.calibration = lambda program, own=(): texts(program, own)[::20]
(result,) = exporting.export(model, ["onnxruntime"], ["fp16"], home / "out")
assert result.passed
"""


@pytest.fixture(scope="module")
def together(
    tiny: Path, traced: Program, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two exports of one model to one place with one cache, at once."""
    home = tmp_path_factory.mktemp("together")
    shutil.copytree(exported.artifacts["onnxruntime"] / "golden", home / "golden")
    cached_stages.keep_trace(Cache(home / "given"), open_model(tiny), traced)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", EXPORTING, str(tiny), str(home), str(own)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in range(2)
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    return home


def test_two_exports_at_once_both_end_well(together: Path) -> None:
    assert len(list(together.glob("*.traces"))) == 2
    opened = bundle.open_bundle(together / "out" / "onnxruntime-fp16")
    assert opened.verdict is not None and opened.verdict.passed
    assert not list((together / "out").glob(".goldfold-*"))
    kept = sorted(path.name.partition("-")[0] for path in (together / "stages").iterdir())
    assert kept == ["ranges", "trace"]


def test_what_they_left_serves_the_next(together: Path, tiny: Path, traced: Program) -> None:
    found = cached_stages.find_trace(Cache(together / "stages"), open_model(tiny))
    assert found is not None
    assert cached_stages.content(found) == cached_stages.content(traced)
