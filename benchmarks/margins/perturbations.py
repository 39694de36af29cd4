"""The perturbations of a recipe: what is changed, on which target, and how integers are moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np

from goldfold.exporter.passes.rewriting.grid import PAIR, Grid

T = TypeVar("T")

TOTAL = 20
"""Perturbations of a target; seeds of noise fill what others leave."""
LEAST_NOISE = 7
SHARE = 0.01
"""The share of integers that get noise of half a step, which moves half of them by 1."""
HALVES = ("first", "second", "odd", "even")
CAPS = {"AVX2": "avx2", "AVX512_CORE": "avx512bw", "AVX512_CORE_VNNI": "avx512_vnni"}
"""Values of ONEDNN_MAX_CPU_ISA, and the flag of a processor that has the instructions."""
ROUNDS = frozenset(CAPS) - {"AVX2"}
"""Caps under which OpenVINO may round activations as it goes: its kernels for that need AVX-512, or
VNNI, and it has to be told, for it asks the real processor."""
FLOATS = ("bf16", "fp32")
NO_CAP = "ONNX Runtime chooses its kernels by CPUID, and no option or variable caps that"
ONE_FLOAT = "ONNX Runtime's kernels compute in f32 alone around integers"


class Kind(StrEnum):
    """The kinds of perturbations. `base` is the recipe as an export makes it."""

    base = "base"
    order = "order"
    half = "half"
    threads = "threads"
    isa = "isa"
    floating = "float"
    noise = "noise"


@dataclass(frozen=True)
class Perturbation:
    """One change of the recipe's artifact, or of its run."""

    kind: Kind
    value: str
    impossible: str = ""
    """The reason why it cannot be made here; "" if it can."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.value}".strip()

    @property
    def calibration(self) -> Perturbation | None:
        """Returns itself where it changes the calibration texts, else None."""
        return self if self.kind in (Kind.order, Kind.half) else None


def listed(target: str, floats: Sequence[str], flags: frozenset[str]) -> list[Perturbation]:
    """Returns the perturbations of a target, `base` first: TOTAL that are possible, and those that
    are not. `floats` are the precisions that the machine computes around the integers, `flags` the
    processor's."""
    found = [Perturbation(Kind.threads, str(count)) for count in (1, 2)]
    found += [Perturbation(Kind.isa, cap, _no_cap(target, cap, flags)) for cap in CAPS]
    found += [Perturbation(Kind.floating, one, _no_float(target, one, floats)) for one in FLOATS]
    calibrated = [Perturbation(Kind.order, str(seed)) for seed in range(2)]
    calibrated += [Perturbation(Kind.half, half) for half in HALVES]
    able = sum(not one.impossible for one in (*found, *calibrated))
    seeds = range(max(LEAST_NOISE, TOTAL - able))
    noisy = [Perturbation(Kind.noise, str(seed)) for seed in seeds]
    return [Perturbation(Kind.base, ""), *found, *noisy, *calibrated]


def _no_cap(target: str, cap: str, flags: frozenset[str]) -> str:
    if target != "openvino":
        return NO_CAP
    return "" if CAPS[cap] in flags else f"this processor has no {CAPS[cap]}"


def _no_float(target: str, precision: str, floats: Sequence[str]) -> str:
    if target != "openvino":
        return "" if precision == "fp32" else ONE_FLOAT
    return "" if precision in floats else f"this processor computes nothing in {precision}"


def processor_flags() -> frozenset[str]:
    """Returns the processor's flags; none where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    return frozenset(found[0]) if found else frozenset()


def chosen(sequences: Sequence[T], change: Perturbation | None) -> list[T]:
    """Returns the calibration texts in another order, or half of them; all without a change."""
    if change is None:
        return list(sequences)
    if change.kind is Kind.order:
        order = np.random.default_rng(int(change.value)).permutation(len(sequences))
        return [sequences[at] for at in order]
    middle = (len(sequences) + 1) // 2
    if change.value == "first":
        return list(sequences[:middle])
    if change.value == "second":
        return list(sequences[middle:])
    return list(sequences[0 if change.value == "odd" else 1 :: 2])


def moved(
    numbers: np.ndarray, grid: Grid, draws: np.random.Generator, share: float = SHARE
) -> np.ndarray:
    """Returns integers [channels, inputs] of which a share gets half a step of noise, up or down by
    chance. Rounding takes half of those half steps to 0 and half to a whole one, by chance again.
    A change that the grid does not allow goes towards 0 instead."""
    by = np.zeros(numbers.size, np.int16)
    count = round(share * numbers.size)
    places = draws.choice(numbers.size, count, replace=False, shuffle=False)
    by[places] = draws.choice(np.array([-1, 0, 0, 1], np.int16), count)
    by = by.reshape(numbers.shape)
    old = numbers.astype(np.int16)
    new = old + by
    bad = (new < grid.low) | (new > grid.high)
    if grid.pairs:
        over = np.repeat(beyond(np.where(bad, old - by, new)), 2, axis=1)
        bad[:, : over.shape[1]] |= over
    by = np.where(bad & (by != 0), -np.sign(old), by)
    return (old + by).astype(numbers.dtype)


def beyond(numbers: np.ndarray) -> np.ndarray:
    """Returns for each pair of neighbours (2i, 2i + 1) whether they have one sign and are more than
    PAIR together."""
    first, second = (numbers[:, at : numbers.shape[1] & ~1 : 2].astype(np.int16) for at in (0, 1))
    return (np.sign(first) == np.sign(second)) & (np.abs(first + second) > PAIR)
