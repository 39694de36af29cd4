"""Names of the files of an artifact."""

from __future__ import annotations

ENGINE = "model.engine"
RECIPE = "build.py"
SPEC = "build.json"
COMMAND = "trtexec.txt"
SPEC_LIMIT = 1 << 20
"""Maximum bytes of build.json."""
