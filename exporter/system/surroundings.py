"""Settings of dependencies before their import: they send no reports, write to another folder when
there is no home folder, and do not keep processors busy while they wait.

Some dependencies send usage data to their makers by default, and keep an identifier in the home
folder for it. A user who wants that sets the variable himself: a variable that is set stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_QUIET = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime since 1.29: an identifier, a database, uploads
    "ORT_TELEMETRY_DISABLED": "1",  # the same under its coming name
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_IDLE = {"OPENBLAS_THREAD_TIMEOUT": "20"}
"""OpenBLAS's threads wait busily for 2^26 cycles after numpy's import and after every product: some
25 ms of every processor. After 2^20 they sleep. Products are the same, to the bit."""
_OPENVINO = "openvino_telemetry"
"""The package through which `import openvino` reports its own import, where it is installed."""


def prepare() -> None:
    """Set the variables that are not set, and keep OpenVINO from finding the package that reports.

    goldfold calls this when it is imported, before any of the dependencies can be.
    """
    for name, value in (_QUIET | _IDLE).items():
        os.environ.setdefault(name, value)
    if not _agreed():
        sys.modules.setdefault(_OPENVINO, None)  # type: ignore[arg-type]


def home() -> Path | None:
    """Returns the user's folder; None where it is unknown: no HOME, and a user without an entry."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _agreed() -> bool:
    """Returns whether the user has agreed to OpenVINO's reports by `opt_in_out --opt_in`."""
    found = home()
    try:
        return found is not None and (found / "intel" / _OPENVINO).read_text().strip() == "1"
    except (OSError, ValueError):
        return False
