"""The artifacts of a recipe, one for each perturbation, made from one trace."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.margins.perturbations import Perturbation, chosen, moved
from goldfold.exporter import registry
from goldfold.exporter.driver import cached_stages, preparing
from goldfold.exporter.frontend.derive import derive
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.base import Pass
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.quantize_weights import QuantizeWeights
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import plan, texts
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.system.cache import Cache


@dataclass(frozen=True)
class Calibrated:
    """A program and the passes that quantize it; the program itself is not changed."""

    program: Program
    passes: tuple[Pass, ...]

    def quantized(self, seed: int | None = None) -> Program:
        """Returns a program of integers; with a seed, a share of them is changed by 1."""
        program = self.program.copy()
        passes = self.passes if seed is None else tuple(_noisy(one, seed) for one in self.passes)
        pipeline.run(program, passes)
        return program


def _noisy(one: Pass, seed: int) -> Pass:
    if not isinstance(one, QuantizeWeights) or one.plan is None:
        return one
    draws = np.random.default_rng(seed)
    noisy = {
        name: replace(held, numbers=moved(held.numbers, held.grid, draws))
        for name, held in one.plan.items()
    }
    return replace(one, plan=noisy)


@dataclass(frozen=True)
class Maker:
    """A model, traced and rewritten for one recipe."""

    program: Program
    recipe: Recipe
    stages: Stages
    cache: Cache | None

    @classmethod
    def of(cls, source: Source, recipe: Recipe, stages: Stages, cache: Cache | None) -> Maker:
        program, passes = preparing.traced(source, stages, cache=cache), Pipeline()
        derive(program, source)
        preparing.legalized(program, passes)
        preparing.rewrite(program, recipe, passes, stages)
        return cls(program, recipe, stages, cache)

    def calibrated(self, change: Perturbation | None) -> Calibrated:
        """Returns what the recipe makes of its calibration texts, or of those that a perturbation
        chooses."""
        recipe, step = self.recipe, self.stages.step
        program = self.program.copy()
        with self.stages(f"calibrate {'' if change is None else change.name}".strip()):
            plan.check(recipe, program)
            sequences = chosen(texts.steering(recipe, program), change)
            keep = partial(cached_stages.measured, self.cache, program, sequences, recipe)
            pipeline.run(program, plan.balance(recipe, program, sequences, step, keep))
            found = plan.passes(recipe, program, sequences, step, keep)
            self.stages.note(f"{len(sequences)} texts")
        return Calibrated(program, found)


def build(program: Program, target_name: str, floating: str, folder: Path) -> None:
    """Write a target's model into an empty folder. Leaves `program` as it is."""
    target, copy = registry.target(target_name), program.copy()
    typed, sums = target.strongly_typed, target.integer_sums
    pipeline.run(copy, pipeline.half(floating, {}, typed, sums))
    pipeline.run(copy, target.backend_passes(floating, copy.contract, {}))
    target.build(copy, floating, folder, target.Options())
    del copy
    gc.collect()  # a graph is full of cycles
