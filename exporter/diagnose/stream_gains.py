"""The gain of the residual stream, by layer and token: radians of the embedding for a relative
error of 1 of one token's vector behind one layer.

A token whose gain stands out in some layers and falls behind them is where the model decides
something: before these layers an error may still change the decision, behind them it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from goldfold.exporter.diagnose.layer_drift import numbered
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.evaluate import layer_values, probing
from goldfold.exporter.evaluate.probing import Probe, Tap
from goldfold.exporter.ir.program import Program
from goldfold.exporter.records import Real, Record

DRAWS = 2
"""Random directions for each layer and token."""


class StreamGains(Record, frozen=True, kw_only=True):
    """One text."""

    layers: tuple[str, ...]
    """Names in the source model, in order."""
    gains: tuple[tuple[Real, ...], ...]
    """[layers][tokens], radians for a relative error of 1."""

    def largest(self) -> tuple[int, int]:
        """Returns the layer's index and the token's position of the largest gain."""
        found = np.array(self.gains, dtype=np.float64)
        return tuple(map(int, np.unravel_index(found.argmax(), found.shape)))  # type: ignore[return-value]


def stream_gains(
    program: Program,
    ids: Sequence[int],
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StreamGains:
    """Measure the gains of one text, run alone in f32.

    Args:
        program: legal, in f32; its layers are numbered in the source model. Left alone.
        ids: token ids, without padding.
        seed: of the random directions.
        progress: called with (done, total) layers.

    Raises:
        RewriteError: the source model numbers no layers.
    """
    copy = program.copy()
    taps = [Tap(name, value) for name, value in layer_values.leaving(copy, numbered).items()]
    taps = [tap for tap in taps if tap.value.shape is not None and len(tap.value.shape) == 3]
    if not taps:
        raise RewriteError(f"{program.contract.model} has no numbered layers to look behind")
    probe, random = Probe(copy, taps), np.random.default_rng(seed)
    values = probe.values(ids)
    gains = []
    for done, tap in enumerate(taps, start=1):
        rows = values[tap.name]
        asked = []
        for token in range(len(ids)):
            for _ in range(DRAWS):
                moved = np.zeros_like(rows)
                drawn = random.standard_normal(rows.shape[-1])
                moved[token] = drawn * np.linalg.norm(rows[token]) / np.linalg.norm(drawn)
                asked.append(({tap.name: moved}, probing.STEP))
        found = np.square(np.linalg.norm(probe.slopes(ids, asked).first, axis=1))
        means = np.sqrt(found.reshape(-1, DRAWS).mean(axis=1))
        gains.append(tuple(Real(gain) for gain in means))
        progress(done, len(taps))
    return StreamGains(layers=tuple(tap.name for tap in taps), gains=tuple(gains))
