"""The assignment picks an option per group: the cheapest choice whose loads stay within the limits.

    minimise Σ_g cost[g, o_g]  over o,  while Σ_g load[g, o_g, r] ≤ 1 for every row r

This is a knapsack with one choice per group and several limits. HiGHS solves it exactly as an
integer program; a greedy answer is computed as well, in case HiGHS runs out of time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_SECONDS = 5.0
_GAP = 1e-3
"""The relative cost that an answer may have above the proved minimum; the estimate is off by more.
"""
_ROUND = 1e-9
"""The most that a sum of loads may be above 1: HiGHS's answers are rounded, and so are the sums."""


def cheapest(costs: Sequence[np.ndarray], loads: Sequence[np.ndarray]) -> tuple[int, ...] | None:
    """The option of every group.

    Args:
        costs: f64 [options] per group.
        loads: f64 [options, rows] per group, none negative.

    Returns:
        None if no choice keeps every row within 1.
    """
    exact, simple = _exact(costs, loads), greedy(costs, loads)
    found = [one for one in (exact, simple) if one is not None and fits(loads, one)]
    return min(found, key=lambda one: cost(costs, one), default=None)


def greedy(costs: Sequence[np.ndarray], loads: Sequence[np.ndarray]) -> tuple[int, ...] | None:
    """Starts from the least loads and takes the step that saves most per added load, while one
    fits."""
    chosen = [int(load.max(axis=1).argmin()) for load in loads]
    total = np.sum([load[o] for load, o in zip(loads, chosen, strict=True)], axis=0)
    if (total > 1 + _ROUND).any():
        return None
    while True:
        best, step = 0.0, None
        for group, (cost_of, load) in enumerate(zip(costs, loads, strict=True)):
            now = chosen[group]
            for option in range(len(cost_of)):
                saved = cost_of[now] - cost_of[option]
                added = load[option] - load[now]
                if saved <= 0 or (total + added > 1 + _ROUND).any():
                    continue
                gain = saved / max(float(added.max()), 1e-12)
                if gain > best:
                    best, step = gain, (group, option)
        if step is None:
            return tuple(chosen)
        group, option = step
        total = total + loads[group][option] - loads[group][chosen[group]]
        chosen[group] = option


def cost(costs: Sequence[np.ndarray], chosen: Sequence[int]) -> float:
    return float(sum(c[o] for c, o in zip(costs, chosen, strict=True)))


def fits(loads: Sequence[np.ndarray], chosen: Sequence[int]) -> bool:
    """Whether every row is at most 1."""
    total = np.sum([load[o] for load, o in zip(loads, chosen, strict=True)], axis=0)
    return bool(np.all(total <= 1 + _ROUND))


def _exact(costs: Sequence[np.ndarray], loads: Sequence[np.ndarray]) -> tuple[int, ...] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = [len(c) for c in costs]
    ends = np.cumsum(sizes)
    one = np.zeros((len(sizes), ends[-1]))
    for group, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        one[group, end - size : end] = 1
    flat = np.concatenate(list(costs))
    spread = float(np.abs(flat).max()) or 1.0  # HiGHS's tolerances are absolute: bytes would be
    with _hushed():
        solved = milp(
            flat / spread,
            integrality=np.ones(ends[-1]),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one, 1, 1),
                LinearConstraint(np.concatenate(list(loads)).T, -np.inf, 1),
            ],
            options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
        )
    if solved.x is None:
        return None
    return tuple(int(part.argmax()) for part in np.split(solved.x, ends[:-1]))


@contextmanager
def _hushed() -> Iterator[None]:
    """Silences standard output: HiGHS sometimes prints a line there whatever its options, and other
    programs read the output of this one."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
