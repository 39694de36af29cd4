"""The layout of a package, and the names of its functions."""

from __future__ import annotations

from collections.abc import Sequence

PACKAGE = "model.mlpackage"
MANIFEST = "Manifest.json"
DATA = "Data/com.apple.CoreML"
MODEL = "model.mlmodel"
WEIGHTS = "weights/weight.bin"

_PREFIX = "tokens_"


def function_name(bucket: int, buckets: Sequence[int]) -> str:
    """Returns the name of the function that holds `bucket`; a package of one bucket has `main`
    alone."""
    return f"{_PREFIX}{bucket}" if len(buckets) > 1 else "main"
