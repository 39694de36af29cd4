"""The package is typed for those who use it: the wheel says so, and a consumer's code checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CONSUMER = """
from pathlib import Path

import numpy as np

from goldfold.targets.openvino.options import OpenVinoOptions
from goldfold import (
    Contract, Encoder, GateMissed, GoldfoldError, Result, export, load, verify,
)

results: list[Result] = export("model", ["openvino"], build=OpenVinoOptions(batch=1))
again = export("model", out=Path("out"), build={"batch": 1})
path: Path = results[0].path
passed: bool = verify(path, threads=1).passed
encoder: Encoder = load(path)
contract: Contract = encoder.contract
rows: np.ndarray = encoder.embed(["a text"], prompt="query", dims=256)
vector: np.ndarray = encoder.run(np.ones((1, 2), np.int64), np.ones((1, 2), np.int64))
try:
    load("out")
except GateMissed as missed:
    code: int = missed.code
except GoldfoldError:
    raise
"""
WRONG = {
    "load(3)": "reportArgumentType",
    "export('model', dims='256')": "reportArgumentType",
    "verify('out').pased": "reportAttributeAccessIssue",
    "load('out').embed(['a'], dims='256')": "reportArgumentType",
}


def checked(text: str, place: Path) -> list[dict]:
    """pyright's faults of a file that lies outside the project."""
    file = place / "consumer.py"
    file.write_text(text, "utf-8")
    house = place / "house"
    subprocess.run([ROOT / ".ci" / "house"], env={**os.environ, "VENV": str(place)}, check=True)
    settings = {
        "typeCheckingMode": "strict",
        "extraPaths": [str(house)],
        "reportUnusedExpression": False,
        "reportMissingTypeStubs": False,
    }
    (place / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    pytest.importorskip("pyright", reason="pyright is not installed")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["generalDiagnostics"]


def test_a_consumer_s_code_checks_strictly(tmp_path: Path) -> None:
    faults = checked(CONSUMER, tmp_path)
    assert not faults, "\n".join(fault["message"] for fault in faults)


def test_a_consumer_s_mistakes_are_told(tmp_path: Path) -> None:
    head = "from goldfold import export, load, verify\n"
    faults = checked(head + "\n".join(WRONG) + "\n", tmp_path)
    told = {fault["range"]["start"]["line"]: fault["rule"] for fault in faults}
    assert [told.get(line) for line in range(1, len(WRONG) + 1)] == list(WRONG.values()), faults


def test_public_names_are_there_and_said() -> None:
    import goldfold

    for name in goldfold.__all__:
        assert getattr(goldfold, name) is not None, name
    assert set(goldfold.__all__) <= set(dir(goldfold))
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    homes = {getattr(goldfold, n).__module__ for n in goldfold.__all__ if n != "__version__"}
    for home in homes:
        assert f"::: {home}" in page, f"docs/api.md says nothing of {home}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, goldfold; from goldfold import GoldfoldError, Contract; "
        "print(sorted({'torch', 'transformers', 'openvino', 'onnxruntime'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
