"""The faults inside a package: the first value that is not finite, and the first that leaves the
package's ONNX program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.errors import RewriteError, UsageError
from goldfold.exporter.evaluate.interpret import Session
from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.lower.lowering import spelled
from goldfold.targets.coreml.package import Kind, Operation

LIMIT = 1e-2
"""The relative difference from which a value counts as drifted.

Rounding to fp16 moves a value by 2^-11 of it; a stream to which a hundred such values are added
moves by about 10 · 2^-11 = 5e-3. A wrong op moves it by its own size.
"""


@dataclass(frozen=True)
class Bad:
    """The first value that holds an infinity or a NaN although its inputs did not."""

    value: str
    op: str
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.value} ({self.op}, {self.kind}) holds {self.what}"


@dataclass(frozen=True)
class Off:
    """A value of the package beside the same value of the ONNX program."""

    value: str
    op: str
    distance: float
    """|a − b| / |b| over the whole value."""

    def __str__(self) -> str:
        return f"{self.value} ({self.op}) is off by {self.distance:.1e} of its size"


class FiniteWatch:
    """A Watch that records the first value that is not finite."""

    def __init__(self) -> None:
        self.found: Bad | None = None

    def __call__(self, operation: Operation, name: str, kind: Kind, array: np.ndarray) -> None:
        if self.found is not None or array.dtype.kind != "f" or np.isfinite(array).all():
            return
        what = "NaN" if np.isnan(array).any() else "an infinity"
        self.found = Bad(name, operation.op, str(kind), what)


def first_drift(
    evaluator: Evaluator,
    model: ir.Model,
    feeds: Mapping[str, np.ndarray],
    limit: float = LIMIT,
) -> tuple[Off | None, int]:
    """Returns the first value of the package that is further than `limit` from the value of the
    same name in `model`, and how many were compared. None if all are near.

    `model` gets the same inputs, padding included. Raises UsageError if it has other inputs.
    """
    names = _values(model)
    ours = {name for operation in evaluator.function.operations for name, _ in operation.outputs}
    common = {spelled(name): name for name in names if spelled(name) in ours}
    given = {value.name or "" for value in model.graph.inputs}
    if given != set(feeds):
        raise UsageError(f"the ONNX model's inputs are {', '.join(sorted(given))}")
    expected = _run(model, list(common.values()), feeds)
    off: list[Off] = []
    compared = 0

    def watch(operation: Operation, name: str, kind: Kind, array: np.ndarray) -> None:
        nonlocal compared
        wanted = expected.get(common.get(name, ""))
        if wanted is None or wanted.shape != array.shape or array.dtype.kind != "f":
            return
        compared += 1
        distance = _distance(array, wanted)
        if not off and not distance <= limit:
            off.append(Off(name, operation.op, distance))

    evaluator(feeds, watch)
    return (off[0] if off else None), compared


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    size = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / size if size else float(np.linalg.norm(a))


def _values(model: ir.Model) -> list[str]:
    return [value.name or "" for node in model.graph for value in node.outputs if value.name]


def _run(
    model: ir.Model, names: list[str], feeds: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the values of these names in ONNX Runtime, without its optimiser, which would fuse
    them."""
    copy = model.clone()
    made = {v.name: v for node in copy.graph for v in node.outputs}
    have = {v.name for v in copy.graph.outputs}
    copy.graph.outputs.extend(made[name] for name in names if name not in have)
    try:
        session = Session(copy, optimise=False)
        wide = {name: np.asarray(array, dtype=np.int64) for name, array in feeds.items()}
        return dict(zip(names, session.run(names, wide), strict=True))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RewriteError(f"ONNX Runtime refuses the model: {reason}") from error
