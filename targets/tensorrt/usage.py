"""Lines of use of an artifact of TensorRT (targets/usage.py)."""

from __future__ import annotations

from collections.abc import Iterator

from goldfold.targets.usage import Use


def uses() -> Iterator[Use]:
    """Yields the ways to use one, beside goldfold and load.py."""
    yield Use(
        "Another release, or another GPU",
        "console",
        "python build.py",
        "`build.py` builds `model.engine` anew from `model.onnx`; a server for engines, in C++, "
        "reads the file as it is.",
    )
