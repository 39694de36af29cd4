"""The command in poor surroundings: no home folder, an ASCII locale, an empty home; and what it
leaves there. Each in a process of its own, since all of it is decided when Python starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from goldfold import load
from goldfold.exporter.system import surroundings
from goldfold.exporter.system.cache import open_cache
from goldfold.golden.judging import reference

ROOT = Path(__file__).parents[3]
COMMANDS = """
import sys
from functools import partial
import goldfold.golden.make
from goldfold.exporter.cli import app
only = ("card-query", "chinese", "length-16")
goldfold.golden.make.make = partial(goldfold.golden.make.make, only=only)
model, out = sys.argv[1:]
for words in (
    ["export", model, "--target", "onnxruntime", "--target", "openvino", "--out", out],
    ["verify", out], ["inspect", out + "/onnxruntime-fp32"], ["report", out],
    ["embed", out + "/openvino-fp32", "text", "--save", out + "/rows.npy"], ["cache", "size"],
    ["cache", "list"], ["recipes"], ["targets"],
):
    code = app.guarded(partial(app.app, args=words), False)
    assert code == 0, (words, code)
"""


def run(
    words: list[str], place: Path, environment: dict[str, str], user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`words` to Python, with nothing in its environment but what is given."""
    before = [] if user is None else ["setpriv", f"--reuid={user}", "--clear-groups"]
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    return subprocess.run(
        [*before, sys.executable, "-P", *words],
        cwd=place,
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
             "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        errors="replace",
    )  # fmt: skip


def reaches_python(user: int) -> bool:
    """Returns whether a process may become this user, and may start this Python as such: not where
    it lies in a home folder that is closed to others."""
    if os.geteuid() or shutil.which("setpriv") is None:
        return False
    code = "import os, sys; sys.exit(not os.access(sys.executable, os.X_OK))"
    words = ["setpriv", f"--reuid={user}", "--clear-groups", sys.executable, "-c", code]
    return not subprocess.run(words, capture_output=True).returncode


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_home_holds_goldfold_s_own_cache_afterwards_and_nothing_else(
    tiny: Path, tmp_path: Path
) -> None:
    """No identifier, no database: ONNX Runtime, OpenVINO and the hub's client report nothing."""
    home, place = tmp_path / "home", tmp_path / "place"
    home.mkdir()
    place.mkdir()
    done = run(["-c", COMMANDS, str(tiny), "out"], place, {"HOME": str(home)})
    assert done.returncode == 0, done.stderr[-2000:]
    left = below(home)
    assert left and all(path.startswith(".cache/goldfold/stages/") for path in left), left
    assert {path.name for path in place.iterdir()} == {"out"}


def test_nobody_s_home_and_an_ascii_locale_are_no_faults(tiny: Path, tmp_path: Path) -> None:
    """As in a container that runs under a number that has no name."""
    place = tmp_path / "plätze"
    place.mkdir()
    model = Path(shutil.copytree(tiny, tmp_path / "modèle-字"))
    (model / "LICENCE — ü.txt").write_text("terms")
    nobody = reaches_python(12345)
    for path in (place, *model.rglob("*"), model, *place.parents):
        path.chmod(path.stat().st_mode | (0o777 if path == place else 0o055))
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment |= {} if nobody else {"HOME": str(tmp_path)}
    script = tmp_path / "goldfold"  # by this name the command is known
    script.write_text(f"import goldfold\n{COMMANDS}")
    words = [str(script), str(model), "aus-ü"]
    done = run(words, place, environment, 12345 if nobody else None)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "1?cos" in done.stdout
    assert {path.name for path in place.iterdir()} == {"aus-ü"}  # and no folder called ~
    artifact = place / "aus-ü" / "onnxruntime-fp32"
    assert (artifact / "LICENCE — ü.txt").exists()
    rows = np.load(place / "aus-ü" / "rows.npy")
    assert np.allclose(rows, load(artifact).embed(["text"]), atol=1e-5)


def test_texts_on_standard_input_are_utf8_in_any_locale(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folder = artifacts["onnxruntime"]
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "goldfold", "embed", str(folder), "-"],
        input="Brücke 字\n".encode(),
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    rows = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.float32)
    np.testing.assert_allclose(rows, load(folder).embed(["Brücke 字"]), rtol=1e-5)


# --- what dependencies are told

TOLD = """
import os, sys
import goldfold
print(os.environ["ORT_DISABLE_TELEMETRY"], os.environ["HF_HUB_DISABLE_TELEMETRY"])
print(sys.modules.get("openvino_telemetry", "free") is None)
"""


def test_dependencies_are_told_to_report_nothing(tmp_path: Path) -> None:
    done = run(["-c", TOLD], tmp_path, {"HOME": str(tmp_path)})
    assert done.stdout.split() == ["1", "1", "True"], done.stderr


def test_who_wants_to_report_is_left_to_it(tmp_path: Path) -> None:
    own = {"ORT_DISABLE_TELEMETRY": "0", "HF_HUB_DISABLE_TELEMETRY": "no"}
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "openvino_telemetry").write_text("1")
    done = run(["-c", TOLD], tmp_path, {"HOME": str(tmp_path), **own})
    assert done.stdout.split() == ["0", "no", "False"], done.stderr


def test_importing_is_no_command(tmp_path: Path) -> None:
    """Neither Ctrl-C nor the encoding of somebody else's process is touched."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " import goldfold.exporter.cli.app;"
        " assert signal.getsignal(signal.SIGINT) is signal.default_int_handler;"
        " print(sys.flags.utf8_mode, sys.stdout.encoding)"
    )
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run(["-c", code], tmp_path, environment)
    assert done.stdout.split()[0] == "0" and "8" not in done.stdout.split()[1], done.stderr


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("GOLDFOLD_CACHE", raising=False)
    assert surroundings.home() is None
    assert open_cache() is None
    assert reference.default_folder() is None
    said: list[str] = []
    rows = np.ones((2, 3), np.float32)
    embed = reference.cached("f" * 64, lambda texts, kind: rows, note=said.append)
    assert embed(["a", "b"], "plain") is rows and "no home folder" in said[0]
