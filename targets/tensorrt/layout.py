"""What the files of an artifact are called."""

from __future__ import annotations

ENGINE = "model.engine"
RECIPE = "build.py"
SPEC = "build.json"
COMMAND = "trtexec.txt"
SPEC_LIMIT = 1 << 20
"""Bytes of build.json."""
