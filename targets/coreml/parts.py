"""The parts of a package: its functions' operations in words, their constants by digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.targets.coreml.layout import PACKAGE
from goldfold.targets.coreml.package import Ref, read


def parts(folder: Path) -> dict[str, str]:
    """Returns the parts by function and name. Raises ArtifactError if the package is damaged."""
    package = read(folder / PACKAGE)
    held: dict[tuple, str] = {}

    def said(value: Any) -> str:
        return _said(value, held)

    found = {"specification": str(package.system), "default function": package.default}
    for function in package.functions.values():
        stem = function.name
        for name, kind in function.inputs.items():
            found[f"input {stem}/{name}"] = str(kind)
        for name, value in function.constants.items():
            found[f"constant {stem}/{name}"] = said(value)
        for operation in function.operations:
            given = ", ".join(f"{key}={said(v)}" for key, v in sorted(operation.inputs.items()))
            kinds = ", ".join(f"{name} {kind}" for name, kind in operation.outputs)
            found[f"node {stem}/{operation.name}"] = f"{kinds} = {operation.op}({given})"
    return found


def _said(value: Any, held: dict[tuple, str]) -> str:
    """Returns a value in words; `held` keeps the digests of weights, which functions of a package
    share."""
    if isinstance(value, Ref):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(_said(item, held) for item in value)}]"
    if not isinstance(value, np.ndarray):
        return repr(value)
    if value.size <= 8:
        return f"{value.dtype}{value.tolist()}"
    place = (value.ctypes.data, value.nbytes, str(value.dtype), value.shape)
    if place not in held:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
        held[place] = f"{value.dtype} {list(value.shape)} sha256 {digest}"
    return held[place]
