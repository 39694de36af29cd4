"""The wheel as strangers install it: one name, a light door, errors that say what to install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch", "transformers", "sentence_transformers", "onnx", "onnx_ir", "onnxscript", "sympy",
    "pydantic", "scipy", "safetensors", "huggingface_hub", "typer", "rich",
)  # fmt: skip
UNREACHED = ("dns error", "Failed to fetch", "error sending request", "timed out", "Connect")
"""What uv says where there is no network; `make resolve`, the first line of CI, fails there."""
MEGABYTES = 250
"""Of an environment that embeds with ONNX Runtime; measured: docs/architecture.md."""

EMBED = """
import json, sys
import goldfold
encoder = goldfold.load(sys.argv[1])
rows = encoder.embed(["a text", "another one"], dims=16)
passed = goldfold.verify(sys.argv[1]).passed
heavy = [name for name in sys.argv[2:] if name in sys.modules]
print(json.dumps([rows.shape, passed, heavy, goldfold.__file__]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, ONNX Runtime and what they ask for, from the index."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv, which makes the environment, is not installed")
    place = tmp_path_factory.mktemp("fresh") / "env"
    run = [str(uv), "venv", "--quiet", "--python", sys.executable, str(place)]
    subprocess.run(run, check=True)
    python = place / "bin" / "python"
    install = [
        str(uv), "pip", "install", "--quiet", "--python", str(python), "--link-mode", "copy",
        "--constraint", str(ROOT / "constraints.txt"), f"goldfold[onnxruntime] @ file://{wheel}",
    ]  # fmt: skip
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if any(said in done.stderr for said in UNREACHED):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    return python


def outside(python: Path, *words: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A run in a folder of its own, which sees nothing of the repository."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    return subprocess.run(
        [str(python), *words],
        cwd=place,
        env=environment | {"HOME": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_has_one_name_and_says_that_it_is_typed(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {"goldfold", "goldfold-0.1.0.dist-info"}
    assert {"goldfold/py.typed", "goldfold/targets/openvino/run.py"} <= names
    assert {"goldfold/exporter/quantize/corpus.toml", "goldfold/golden/texts.toml"} <= names
    page = {"index.html", "page.css", "goldfold.mjs", "node.mjs", "package-lock.json"}
    assert {f"goldfold/targets/onnxruntime/page/{name}" for name in page} <= names
    assert not [name for name in names if "tests" in name or "__pycache__" in name]


def test_the_index_page_leads_to_the_repository(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    page = archive.read("goldfold-0.1.0.dist-info/METADATA").decode()
    assert "Project-URL: Documentation" in page and "Classifier: Typing :: Typed" in page
    assert "](docs/" not in page and "](CONTRIBUTING.md" not in page


def test_a_fresh_environment_embeds_and_verifies_without_a_compiler(
    fresh: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    artifact = shutil.copytree(artifacts["onnxruntime"], tmp_path / "artifact")
    for name in ("targets", "golden"):  # a stranger's own, in the folder where he works
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "exporter.py").write_text("raise SystemExit('a stranger')")
    done = outside(fresh, "-c", EMBED, str(artifact), *HEAVY, place=tmp_path)
    assert done.returncode == 0, done.stderr
    shape, passed, heavy, file = json.loads(done.stdout)
    assert (shape, passed, heavy) == ([2, 16], True, [])
    assert str(fresh.parents[1]) in file


def test_a_fresh_environment_is_small(fresh: Path) -> None:
    files = (path for path in fresh.parents[1].rglob("*") if path.is_file())
    assert sum(path.lstat().st_size for path in files) <= MEGABYTES * 1_000_000


def test_what_is_missing_is_one_line_that_says_what_to_install(fresh: Path, tmp_path: Path) -> None:
    """From Python and from the shell."""
    done = outside(fresh, "-c", "from goldfold import export", place=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: goldfold.export: this needs the package ")
    assert last.endswith("install it with: pip install 'goldfold[export]'")
    done = outside(fresh, "-m", "goldfold", "export", "model", place=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install 'goldfold[export]'" in done.stderr
    done = outside(fresh, "-m", "goldfold", "targets", place=tmp_path)
    assert done.returncode == 0 and "goldfold[openvino]" in done.stdout.replace("\n", "")
