"""An adversary looks for token ids that drive values beyond their bounds.

    .venv/bin/python -m benchmarks.bound_search MODEL [--values N] [--seconds S]

For each of the N values of a model whose bounds are largest, it draws token sequences, keeps the
best, and then changes one token at a time, taking whichever of a few candidates makes the value
largest (greedy coordinate ascent). It prints how near each came to its bound. A ratio above 1 is a
fault in exporter/evaluate/bounds.py; a ratio far below 1 says that the bound is loose, or the
adversary weak.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import onnx_ir as ir
import typer

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.evaluate import bounds, interpret
from goldfold.exporter.ir.program import Program

CANDIDATES = 8
"""Tokens that are tried at a place at once."""


@dataclass(frozen=True)
class Found:
    """The largest magnitude of one value that the search reached, and its bound."""

    name: str
    reached: float
    bound: float
    ids: tuple[int, ...]

    @property
    def ratio(self) -> float:
        return self.reached / self.bound


class Adversary:
    """A search over the token ids of `program` for large magnitudes of some of its values."""

    def __init__(self, program: Program, names: Iterable[str], seed: int = 0) -> None:
        self.program = program.copy()
        self._rng = np.random.default_rng(seed)
        self._vocab = program.contract.vocab_size
        kept = set(names)
        self.names = []
        for node in list(self.program.graph):
            for value in node.outputs:
                if value.name in kept:
                    self.names.append(value.name)
                    # Its own output, even where the value is one already.
                    echo = ir.node("Abs", [value], name=f"{value.name}.reached")
                    echo.outputs[0].name = f"{value.name}.reached"
                    echo.outputs[0].type, echo.outputs[0].shape = value.type, value.shape
                    self.program.graph.insert_after(node, [echo])
                    self.program.graph.outputs.append(echo.outputs[0])
        self._session = interpret.Session(self.program.model)

    def measure(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The largest magnitude of a value for each row of token ids."""
        feeds = {INPUT_IDS: rows.astype(np.int64), ATTENTION_MASK: np.ones_like(rows, np.int64)}
        (found,) = self._session.run([f"{name}.reached"], feeds)
        found = np.nan_to_num(np.asarray(found, np.float64), nan=np.inf)
        # A value without an axis of texts, or whose texts and heads are one, counts as a whole.
        whole = found.reshape(len(rows), -1) if found.shape[0] % len(rows) == 0 else found[None]
        return np.broadcast_to(whole.reshape(len(whole), -1).max(-1), len(rows))

    def attack(
        self, name: str, length: int, sweeps: int, tries: int = 64
    ) -> tuple[float, np.ndarray]:
        """The largest magnitude reached with `length` tokens, and the ids that reach it."""
        draws = self._rng.integers(0, self._vocab, (tries, length))
        draws[: tries // 2] = draws[: tries // 2, :1]  # one token, repeated
        reached = self.measure(name, draws)
        best, ids = float(reached.max()), draws[int(reached.argmax())].copy()
        for _ in range(sweeps):
            before = best
            for place in self._rng.permutation(length):
                rows = np.repeat(ids[None], CANDIDATES, 0)
                rows[:, place] = self._rng.integers(0, self._vocab, CANDIDATES)
                reached = self.measure(name, rows)
                if reached.max() > best:
                    best, ids = float(reached.max()), rows[int(reached.argmax())].copy()
            if best == before:
                break
        return best, ids


def search(
    program: Program, names: Iterable[str], lengths: Iterable[int], sweeps: int, seed: int = 0
) -> list[Found]:
    """Attack each value with sequences of these lengths; returns the best of each."""
    known = bounds.of(program).largest
    adversary = Adversary(program, names, seed)
    found = []
    for name in adversary.names:
        tried = [adversary.attack(name, length, sweeps) for length in lengths]
        reached, ids = max(tried, key=lambda one: one[0])
        found.append(Found(name, reached, known[name], tuple(int(i) for i in ids)))
    return found


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    values: Annotated[int, typer.Option(help="Values to attack, the largest bounds first.")] = 8,
    seconds: Annotated[float, typer.Option(help="Stop after this long.")] = 300.0,
    max_length: Annotated[int, typer.Option(help="Tokens of the longest sequence.")] = 32,
) -> None:
    """Attack the values with the largest bounds, and print how far the attack got."""
    from goldfold.exporter.driver import preparing
    from goldfold.exporter.frontend.readiness import ready
    from goldfold.exporter.frontend.source import open_model
    from goldfold.exporter.passes.pipeline import Pipeline
    from goldfold.exporter.progress import Stages

    program = preparing.prepare(ready(open_model(model), Stages()), Stages(), Pipeline())
    known = bounds.of(program).largest
    own = {value.name for node in program.graph for value in node.outputs}
    largest = [n for n in sorted(known, key=lambda n: -known[n]) if known[n] < 1e30 and n in own]
    started, worst = time.monotonic(), 0.0
    for name in largest[:values]:
        (found,) = search(program, [name], (1, 4, max_length), sweeps=1)
        worst = max(worst, found.ratio)
        print(
            f"{found.ratio:6.3f}  {found.reached:12,.1f} of {found.bound:12,.1f}  {name}",
            flush=True,
        )
        if time.monotonic() - started > seconds:
            break
    raise SystemExit(worst > 1.0)


if __name__ == "__main__":
    typer.run(main)
