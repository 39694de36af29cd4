"""Sizes of artifacts before anything is rounded: a program of the same shapes, with drawn numbers
in place of its integers, goes through the export's own passes and the target's own writer, and the
files are counted.

    size = |graph| + Σ |constants|

depends on shapes and types alone, so drawn numbers give the size of the real ones; they are drawn
because writers store equal constants once.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.driver import cutting
from goldfold.exporter.driver.preparing import rewrite
from goldfold.exporter.driver.request import settle
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.vocabulary import Cut
from goldfold.exporter.ir.program import Arrays, Program
from goldfold.exporter.options import Asked, own
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.rewriting import grid
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import plan
from goldfold.exporter.quantize.recipe import Recipe

_FORM = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})\s*([A-Za-z]+)")
_UNITS = {
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip
_COMPILED = "tensorrt"
_SEED = 20261130
_CHUNK = 1 << 24


def parse(text: str) -> int:
    """Returns the bytes of a size such as `100MB`, `95.5 MiB` or `0.1GB`. Raises UsageError for a
    size without a unit, of nothing, or that is no size."""
    said = f"--fit {text[:60]!r}"
    if re.fullmatch(r"\s*[0-9.]+\s*", text):
        raise UsageError(f"{said} has no unit; say 100MB, 95MiB or 0.1GB")
    match = _FORM.fullmatch(text.strip())
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{said} is no size such as 100MB, 95MiB or 0.1GB")
    found = int(float(match[1]) * unit)
    if found < 1:
        raise UsageError(f"{said} is no size of a file; give more than that")
    return found


def shown(size: float) -> str:
    """Megabytes with the digits that tell artifacts apart."""
    return f"{size / 1e6:,.2f}" if size < 1e8 else f"{size / 1e6:,.1f}"


@dataclass(frozen=True)
class Size:
    """The size of a target's own files."""

    bytes: int
    files: tuple[str, ...]
    """Their paths in an artifact; tokenizer, goldens and manifest are not among them."""

    def of(self, folder: Path) -> int:
        """Returns the bytes of the same files in an artifact."""
        return sum((folder / name).stat().st_size for name in self.files)


@dataclass
class Sizer:
    """Predicts sizes of artifacts of one program."""

    base: Program
    """Traced and legal, with its heads; not changed."""
    scratch: Path
    build: Asked
    max_length: int
    cut: Cut | None = None
    _known: dict[tuple[str, str, str], Size] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, target: str, name: str, recipe: Recipe | None) -> Size:
        """Returns the size of the artifact of a recipe, or of a floating precision where there is
        none. Raises the errors of an export that builds it."""
        content = "" if recipe is None else str(recipe.with_(name="", summary="").plain())
        key = (target, name if recipe is None else "", content)
        if key not in self._known:
            self._known[key] = self._predict(target, name, recipe)
        return self._known[key]

    def with_cut(self, cut: Cut) -> Sizer:
        """Returns a sizer of the same program with a cut vocabulary."""
        return Sizer(self.base, self.scratch, self.build, self.max_length, cut)

    def _predict(self, target: str, name: str, recipe: Recipe | None) -> Size:
        program, passes = self.base.copy(), Pipeline()
        rewrite(program, recipe, passes, Stages())
        if recipe is not None:
            stand_in(program, recipe, passes)
        cutting.apply(program, self.cut, passes)
        folder = self.scratch / "size"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            self._write(program, (target, name), recipe, folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            size = sum(path.stat().st_size for path in files)
            return Size(size, tuple(path.relative_to(folder).as_posix() for path in files))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(
        self, program: Program, pair: tuple[str, str], recipe: Recipe | None, folder: Path
    ) -> None:
        """Write the target's files as an export does (driver/exporting.py), in this order."""
        target = registry.target(pair[0])
        floating = registry.floating(*pair, recipe and recipe.around)
        options = settle([pair], {pair[1]: recipe}, self.build, self.max_length)[pair]
        half = pipeline.half(floating, {}, target.strongly_typed, target.integer_sums, {})
        pipeline.run(program, half)
        pipeline.run(program, target.first_passes(options))
        pipeline.run(program, target.backend_passes(floating, program.contract, {}))
        pipeline.run(program, target.last_passes(options))
        target.make(program, floating, folder, options, own(target.Options, self.build))


def check_target(name: str) -> None:
    """Refuse a target whose sizes are not known before it is built. Raises UsageError."""
    if name == _COMPILED:
        raise UsageError(
            f"--fit: the size of an engine is known only once {name} has compiled it; export it "
            "with --precision and look"
        )


def stand_in(program: Program, recipe: Recipe, passes: Pipeline) -> None:
    """Quantize a rewritten program as a recipe says, with drawn integers. Changes `program`."""
    texts = [[number] for number in range(plan.LEAST)]  # never run: what they would give is drawn
    sites = [one.site for one in plan.check(recipe, program)]
    peaks = {
        site.x.name or "": np.ones(site.matrix.shape[1], np.float32)
        for site in sites
        if site.x is not None
    }

    def keep(what: str, make: Callable[[], Arrays]) -> Arrays:
        if what == "balance":
            return peaks
        return _drawn(recipe, program, peaks) if what == "integers" else make()

    passes.run(program, plan.balance(recipe, program, texts, keep=keep))
    passes.run(program, plan.passes(recipe, program, texts, keep=keep))


def _drawn(recipe: Recipe, program: Program, values: Mapping[str, np.ndarray]) -> Arrays:
    """Integers, scales and steps of the right shapes and types, by the names that plan gives."""
    draws = np.random.default_rng(_SEED)
    found: Arrays = {}
    for name, row in values.items():
        found[f"{name}/step"] = np.array(2.0**-6, np.float32)
        found[f"{name}/standing"] = draws.random(row.shape, np.float32)
    for one in plan.check(recipe, program):
        name = one.site.stored.name or ""
        if not one.choice.bits or f"{name}/numbers" in found:
            continue
        channels, inputs = one.site.matrix.shape
        shape = (channels, one.choice.grid.blocks(inputs))
        # Eleven bits, which fp16 holds: of integers' scales no writer finds two rows equal.
        scale = (1024 + draws.integers(0, 1024, shape)).astype(np.float32) * np.float32(2.0**-20)
        found[f"{name}/numbers"] = _numbers(draws, one.choice.grid, (channels, inputs))
        found[f"{name}/scale"] = scale
        if one.site.kind == "table":
            found[f"{name}/columns"] = grid.sizes(one.site.matrix)
    return found


def _numbers(draws: np.random.Generator, of: grid.Grid, shape: tuple[int, int]) -> np.ndarray:
    """i8 [channels, inputs] that use all of the grid's bits."""
    found = np.empty(shape, np.int8)
    step = max(1, _CHUNK // shape[1])
    for start in range(0, shape[0], step):
        part = found[start : start + step]
        drawn = draws.integers(of.low, of.high + 1, part.shape, np.int8)
        part[:] = grid.paired(drawn) if of.pairs else drawn
    if not of.pairs:
        found[0, 0] = of.low
    return found
