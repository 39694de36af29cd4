"""Statistics of activations on the calibration texts: each channel's largest magnitude, how far it
stands out of its rows, and the second moments between channels.

Only sums are kept, so memory is the same for ten texts and ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir.program import Program

_ROWS = 512
"""Tokens that are gathered before they enter a channel's moments: one large product is cheaper
than many small ones."""
_TINY = 1e-60
"""Added to a row's mean square: a row of zeros then counts nothing."""


@dataclass
class Activation:
    """One value [batch, tokens, channels] that linear maps read."""

    peak: np.ndarray
    """f32 [channels], the largest magnitude."""
    moments: np.ndarray
    """f64 [channels, channels], the sum of x xᵀ; `moments / tokens` is its mean. Only the
    diagonal, [channels], where `record` was asked for no more."""
    standing: np.ndarray
    """f64 [channels], the sum of (x / r)⁴, r being the root mean square of a row: large where a
    channel is often far larger than the others, which then share the step that it sets."""
    tokens: int = 0

    @property
    def strength(self) -> np.ndarray:
        """f64 [channels], the mean square."""
        whole = self.moments if self.moments.ndim == 1 else np.diag(self.moments)
        return whole / max(self.tokens, 1)


def record(
    program: Program,
    values: Sequence[ir.Value],
    sequences: Iterable[Sequence[int]],
    moments: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Activation]:
    """Run every sequence of token ids through `program` in f32 and sum up the moments of `values`.

    Args:
        values: values of the program's graph whose last axis is channels.
        moments: whether to sum x xᵀ, or the squares alone.

    Raises:
        RewriteError: a value is not finite on a text, naming both.
    """
    probed, names = _probed(program, values)
    session = interpret.Session(probed.model)
    found: dict[str, Activation] = {}
    waiting: dict[str, list[np.ndarray]] = {name: [] for name in names}
    held = 0
    for done, ids in enumerate(sequences, start=1):
        row = np.array([list(ids)], dtype=np.int64)
        arrays = session.run(names, {INPUT_IDS: row, ATTENTION_MASK: np.ones_like(row)})
        for name, array in zip(names, arrays, strict=True):
            rows = array.reshape(-1, array.shape[-1])
            if not np.isfinite(rows).all():
                raise RewriteError(
                    f"calibration text {done} makes {name} infinite or NaN; "
                    "a scale cannot be taken from that: remove the text or mend the model"
                )
            if name not in found:
                found[name] = _empty(rows.shape[1], moments)
            _reach(found[name], rows)
            waiting[name].append(rows)
        held += row.size
        if held >= _ROWS:
            _flush(found, waiting)
            held = 0
        progress(done)
    _flush(found, waiting)
    return found


def _empty(channels: int, moments: bool) -> Activation:
    shape = (channels, channels) if moments else (channels,)
    return Activation(np.zeros(channels, np.float32), np.zeros(shape), np.zeros(channels))


def _reach(one: Activation, rows: np.ndarray) -> None:
    one.peak = np.maximum(one.peak, np.abs(rows).max(axis=0))
    one.tokens += len(rows)
    squares = np.square(rows, dtype=np.float64)
    one.standing += np.square(squares / (squares.mean(axis=1, keepdims=True) + _TINY)).sum(axis=0)


def _flush(found: dict[str, Activation], waiting: dict[str, list[np.ndarray]]) -> None:
    for name, parts in waiting.items():
        if not parts:
            continue
        rows = np.concatenate(parts)
        parts.clear()
        one = found[name]
        one.moments += rows.T @ rows if one.moments.ndim == 2 else (rows * rows).sum(axis=0)


def _probed(program: Program, values: Sequence[ir.Value]) -> tuple[Program, list[str]]:
    """A copy of `program` that gives `values`, each once, as outputs."""
    copy = program.copy()
    names = list(dict.fromkeys(value.name or "" for value in values))
    made = {output.name: output for node in copy.graph for output in node.outputs}
    known = {output.name for output in copy.graph.outputs}
    copy.graph.outputs.extend(made[name] for name in names if name not in known)
    return copy, names
