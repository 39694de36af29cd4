"""The time and size of a recipe on a target, built as an export builds it, and run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.driver import preparing
from goldfold.exporter.passes import pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.records import Record
from goldfold.exporter.search import trials
from goldfold.exporter.search.testbed import Testbed
from goldfold.exporter.system.clock import timed

SHAPES = ((1, 16), (1, 128), (8, 64))
"""Batch × tokens of the three calls whose times are added up; cut at the model's maximum."""

_RUNS, _SECONDS = 7, 0.7
"""Each shape is run at least this many times, and for this long."""


class Timed(Record, frozen=True, kw_only=True):
    """A measurement on one machine."""

    milliseconds: tuple[float, ...]
    """The time of a call at each of SHAPES: the fastest run, since other work only adds time."""
    bytes: int
    """The size of the target's files."""

    @property
    def total(self) -> float:
        return sum(self.milliseconds)


class Stopwatch:
    """Measures recipes on one target, each once per search. Unlike trials, times are not kept for
    the next search: times of a busy hour and of a quiet one do not compare."""

    def __init__(self, target: str, bed: Testbed, stages: Stages) -> None:
        self.target, self.testbed, self.stages = target, bed, stages
        self._seen: dict[str, Timed] = {}

    def __call__(self, recipe: Recipe) -> Timed:
        key = trials.key_of(self.testbed.key, recipe)
        if key not in self._seen:
            self._seen[key] = self._measure(recipe)
        return self._seen[key]

    def _measure(self, recipe: Recipe) -> Timed:
        target = registry.target(self.target)
        program = self.testbed.quantized(recipe)
        contract = program.contract
        program = replace(program, tokenizer=self.testbed.program.tokenizer)
        pairs = [(self.target, target.fallback)]
        peaks = preparing.peaks_for(program, pairs, self.stages)
        reach = preparing.bounds_for(program, pairs, self.stages)
        pipeline.run(
            program,
            pipeline.half(
                target.fallback, peaks, target.strongly_typed, target.integer_sums, reach
            ),
        )
        pipeline.run(program, target.backend_passes(target.fallback, contract, peaks))
        options = target.settle(target.fallback, target.Options(), contract.max_length)
        with tempfile.TemporaryDirectory(prefix="goldfold-") as folder:
            target.build(program, target.fallback, Path(folder), options)
            del program
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            run = target.load(Path(folder), contract, target.fallback, None)
            times = [
                _fastest(run, batch, min(tokens, contract.max_length), contract.vocab_size)
                for batch, tokens in SHAPES
            ]
            del run
        return Timed(milliseconds=tuple(times), bytes=size)


def _fastest(run, batch: int, tokens: int, vocabulary: int) -> float:
    ids = np.random.default_rng(0).integers(0, vocabulary, (batch, tokens)).astype(np.int64)
    mask = np.ones_like(ids)
    # The first call at a shape prepares the shape.
    return round(min(timed(lambda: run(ids, mask), 1, _RUNS, _SECONDS)), 3)


def estimates(
    floating: float, uniform: Sequence[float], shares: Sequence[float]
) -> list[list[float]]:
    """Milliseconds that each group adds under each option, [groups][1 + options].

    `floating` and `uniform` are measured: all groups in floating point, and all groups under one
    option. The estimate splits the change of an option by `shares`, each group's part of all
    multiplications.
    """
    return [
        [floating * share, *(floating * share + (all_ms - floating) * share for all_ms in uniform)]
        for share in shares
    ]
