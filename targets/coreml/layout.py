"""Where things lie in a package, and what its functions are called."""

from __future__ import annotations

from collections.abc import Sequence

PACKAGE = "model.mlpackage"
MANIFEST = "Manifest.json"
DATA = "Data/com.apple.CoreML"
MODEL = "model.mlmodel"
WEIGHTS = "weights/weight.bin"

_PREFIX = "tokens_"


def function_name(bucket: int, buckets: Sequence[int]) -> str:
    """The function that holds `bucket`; a package of one bucket has `main` alone."""
    return f"{_PREFIX}{bucket}" if len(buckets) > 1 else "main"
