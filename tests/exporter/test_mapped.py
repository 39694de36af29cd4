"""A weights file that is cut while it is mapped ends the command with one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from goldfold.exporter.system import mapped

_READ = """
import mmap, os, sys
from goldfold.exporter.system import mapped
mapped.arm()
path = sys.argv[1]
with open(path, "r+b") as file:
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    os.truncate(path, 4096)
    {how}
"""
_BY_NUMPY = "import numpy; print(numpy.frombuffer(held, numpy.uint8).sum())"
_IN_A_THREAD = (
    "import threading; t = threading.Thread(target=lambda: held[-1]); t.start(); t.join()"
)


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="no such signal on this system")
@pytest.mark.parametrize("how", ["held[-1]", _BY_NUMPY, _IN_A_THREAD])
def test_a_file_that_is_cut_is_one_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(1 << 20))
    command = [sys.executable, "-c", _READ.format(how=how), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (mapped.CODE, f"error: {mapped.SAID}\n")
