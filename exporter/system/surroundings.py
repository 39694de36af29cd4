"""What dependencies are told before they are imported: to report nothing, and where to write when
there is no home folder.

Some send what they are used for to their makers unless they are told not to, and keep an
identifier in the home folder for it. Whoever wants that sets the variable himself: none that is set
is touched.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime since 1.29: an identifier, a database, uploads
    "ORT_TELEMETRY_DISABLED": "1",  # the same under the name it is to have
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_OPENVINO = "openvino_telemetry"
"""A package that `import openvino` reports its own import through, where it is installed."""


def prepare() -> None:
    """Set the variables that are not set, and keep OpenVINO from finding the package that reports.

    Called when `goldfold` is imported, before any of them can be.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not _agreed():
        sys.modules.setdefault(_OPENVINO, None)  # type: ignore[arg-type]


def home() -> Path | None:
    """The user's folder; None where nobody knows one: no HOME, and a user without an entry."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _agreed() -> bool:
    """Whether the user has agreed to OpenVINO's reports by `opt_in_out --opt_in`."""
    found = home()
    try:
        return found is not None and (found / "intel" / _OPENVINO).read_text().strip() == "1"
    except (OSError, ValueError):
        return False
