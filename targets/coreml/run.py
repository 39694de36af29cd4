"""The runtime of an artifact: Core ML itself on macOS, the evaluator anywhere else.

A package computes one row at a time, in functions of fixed length. The width of the batch chooses
the function, not a row's own tokens, so that a padded batch is computed padded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract
from goldfold.exporter.errors import ArtifactError
from goldfold.targets.base import Run
from goldfold.targets.coreml.evaluate import Evaluator, Widened
from goldfold.targets.coreml.layout import PACKAGE
from goldfold.targets.coreml.lower import vendor
from goldfold.targets.coreml.package import MilFunction, Package, read

Row = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Named int32 [1, tokens] arrays in, named outputs out."""

_LIMITING = threading.Lock()


def load(folder: Path, contract: Contract, threads: int | None = None) -> Run:
    """Returns a callable over the package in `folder`, for any number of threads. `threads` limits
    the evaluator's matrix products, and then callers are computed one after the other; Core ML
    chooses for itself. Raises ArtifactError if the package is damaged."""
    return _open(folder, contract, threads, _core_ml if vendor.native() else _evaluator)


def exact(folder: Path, contract: Contract) -> Run:
    """Returns the same over the evaluator in f32, which rounds nothing to fp16. Raises
    ArtifactError if the package is damaged."""

    def wide(package: Package, name: str, widened: Widened) -> Row:
        return Evaluator(package, name, "f32", widened)

    return _open(folder, contract, None, wide)


def _open(
    folder: Path,
    contract: Contract,
    threads: int | None,
    opened: Callable[[Package, str, Widened], Row],
) -> Run:
    package = read(folder / PACKAGE)
    lengths = {_length(function): function for function in package.functions.values()}
    rows: dict[str, Row] = {}
    widened = Widened()
    opening = threading.Lock()

    def row_of(name: str) -> Row:
        if name not in rows:
            with opening:  # once, however many threads ask
                if name not in rows:
                    rows[name] = opened(package, name, widened)
        return rows[name]

    def run(
        input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        name = output or contract.output
        length, function = _fitting(lengths, input_ids.shape[1])
        row = row_of(function.name)
        padded = length or input_ids.shape[1]
        out: list[np.ndarray] = []
        with _limited(threads):
            for place in range(len(input_ids)):
                feeds = {
                    INPUT_IDS: _widened(input_ids[place], padded, contract.pad_id),
                    ATTENTION_MASK: _widened(attention_mask[place], padded, 0),
                }
                out.append(np.asarray(row(feeds)[name][0], dtype=np.float32))
        rows = np.stack(out)
        # A vector for each token: those of the padding that the function asks for are left out.
        return rows[:, : input_ids.shape[1]] if rows.ndim == 3 else rows

    return run


def census(folder: Path) -> dict[str, int]:
    """Returns operations of the longest function by kind. Fusions of a device do not show here."""
    package = read(folder / PACKAGE)
    counts: dict[str, int] = {}
    for operation in package.function().operations:
        counts[operation.op] = counts.get(operation.op, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _length(function: MilFunction) -> int:
    """Returns the tokens that a function takes; 0 if any number."""
    if INPUT_IDS not in function.inputs:
        raise ArtifactError(f"the function {function.name} has no input {INPUT_IDS}")
    shape = function.inputs[INPUT_IDS].shape
    if shape is None or len(shape) != 2:
        raise ArtifactError(f"{INPUT_IDS} is {function.inputs[INPUT_IDS]}; it should be [1, S]")
    return shape[1] or 0


def _fitting(lengths: dict[int, MilFunction], width: int) -> tuple[int, MilFunction]:
    """Returns the shortest function that holds `width` tokens."""
    if 0 in lengths:
        return 0, lengths[0]
    fitting = [length for length in lengths if length >= width]
    if not fitting:
        raise ArtifactError(f"{width} tokens; the longest function takes {max(lengths)}")
    return min(fitting), lengths[min(fitting)]


def _widened(row: np.ndarray, width: int, filler: int) -> np.ndarray:
    out = np.full((1, width), filler, dtype=np.int32)
    out[0, : len(row)] = row
    return out


@contextmanager
def _limited(threads: int | None) -> Iterator[None]:
    """Limit matrix products to so many threads; None sets no limit. One caller at a time: the limit
    is the process's own, and of two overlapping callers the first to leave would restore the value
    that it found, and the second the value that the first had set."""
    if threads is None:
        yield
        return
    with _LIMITING, threadpool_limits(threads):
        yield


def _evaluator(package: Package, name: str, widened: Widened) -> Row:
    return Evaluator(package, name, "declared", widened)


def _core_ml(package: Package, name: str, widened: Widened) -> Row:
    """Returns Core ML's own runtime, on whatever units it chooses."""
    ct = vendor.coremltools()
    several = len(package.functions) > 1
    try:
        model = ct.models.MLModel(str(package.path), function_name=name if several else None)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtifactError(f"Core ML refuses {package.path}: {reason}") from error
    return _one_at_a_time(model.predict)


def _one_at_a_time(predict: Row) -> Row:
    """Returns `predict` for one thread at a time, as Apple requires of an MLModel.

    Core ML releases its inputs a second after a call, on a thread of its own that does not hold
    Python's lock (coremltools 9.0; its pull request 2827). So it must not hold the last reference
    to an input array: one array of each shape is kept, and filled anew.
    """
    turn = threading.Lock()
    kept: dict[tuple[str, tuple[int, ...]], np.ndarray] = {}

    def row(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with turn:
            for name, array in feeds.items():
                kept.setdefault((name, array.shape), np.empty_like(array))[...] = array
            return predict({name: kept[name, array.shape] for name, array in feeds.items()})

    return row
