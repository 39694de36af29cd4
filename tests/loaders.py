"""An artifact's load.py in a process that has never heard of goldfold."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_CODE = """
import pickle, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("goldfold", "torch", "transformers", "msgspec", "onnx"):
            raise ImportError(f"{name} is forbidden here")

sys.meta_path.insert(0, Forbidden())
sys.path.insert(0, sys.argv[1])
import load

with open(sys.argv[2], "rb") as file:
    calls = pickle.load(file)
found = []
for name, given, how in calls:
    try:
        found.append(getattr(load, name)(*given, **how))
    except ValueError as error:
        found.append(str(error))
with open(sys.argv[2], "wb") as file:
    pickle.dump(found, file)
"""

Call = tuple[str, Sequence[Any], dict[str, Any]]
"""A function of load.py, and its arguments."""


def without_goldfold(folder: Path, calls: Sequence[Call]) -> list[Any]:
    """Returns what each call gives, a refusal's sentence where it gives one."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "calls.pickle"
        file.write_bytes(pickle.dumps(list(calls)))
        done = subprocess.run(
            [sys.executable, "-c", _CODE, str(folder), str(file)],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert not (folder / "__pycache__").exists()
        return pickle.loads(file.read_bytes())
