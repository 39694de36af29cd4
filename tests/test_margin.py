"""benchmarks/margin.py: perturbations are what they are called, noise stays within the grid, and
figures are put together as they should."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.margins import summary
from benchmarks.margins.perturbations import (
    CAPS,
    HALVES,
    NO_CAP,
    ONE_FLOAT,
    TOTAL,
    Kind,
    Perturbation,
    beyond,
    chosen,
    listed,
    moved,
)
from goldfold.exporter.passes.rewriting.grid import Grid, paired
from goldfold.golden import kinds

FLAGS = frozenset(CAPS.values())
GRIDS = [Grid(8), Grid(8, pairs=True), Grid(7), Grid(4)]


def _numbers(grid: Grid, inputs: int) -> np.ndarray:
    draws = np.random.default_rng(3)
    found = draws.integers(grid.low, grid.high + 1, (60, inputs)).astype(np.int8)
    found[:5], found[5:10] = grid.high, grid.low  # nothing goes further there
    return paired(found) if grid.pairs else found


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("inputs", [48, 49])
def test_noise_stays_legal_and_moves_its_share_by_one(grid: Grid, inputs: int) -> None:
    old = _numbers(grid, inputs)
    new = moved(old, grid, np.random.default_rng(0), share=0.5)
    steps = new.astype(int) - old
    assert new.dtype == np.int8 and new.min() >= grid.low and new.max() <= grid.high
    assert set(np.unique(steps)) == {-1, 0, 1}
    assert np.count_nonzero(steps) == round(0.5 * old.size)
    if grid.pairs:
        assert not beyond(new).any() and (paired(new) == new).all()


def test_pairs_are_what_keeps_neighbours_apart() -> None:
    old = _numbers(GRIDS[1], 48)
    assert beyond(moved(old, Grid(8), np.random.default_rng(0), share=0.5)).any()


def test_noise_follows_its_seed() -> None:
    old = _numbers(Grid(8), 48)
    one, again, other = (moved(old, Grid(8), np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (one == again).all() and (one != other).any()


@pytest.mark.parametrize("count", [6, 7])
def test_halves_are_halves_and_orders_lose_nothing(count: int) -> None:
    texts = list(range(count))
    first, second, odd, even = (chosen(texts, Perturbation(Kind.half, one)) for one in HALVES)
    assert first + second == texts and sorted(odd + even) == texts
    assert abs(len(first) - len(second)) <= 1 and set(first) != set(odd)
    orders = [chosen(texts, Perturbation(Kind.order, seed)) for seed in "01"]
    assert all(sorted(order) == texts for order in orders)
    assert orders[0] != orders[1] != texts and chosen(texts, None) == texts


@pytest.mark.parametrize(
    ("target", "reasons"),
    [("openvino", []), ("onnxruntime", [NO_CAP] * 3 + [ONE_FLOAT])],
)
def test_each_target_has_twenty_or_says_why_not(target: str, reasons: list[str]) -> None:
    plan = listed(target, ("bf16", "fp32"), FLAGS)
    able = [one for one in plan if not one.impossible]
    assert plan[0].kind is Kind.base and len(able) == 1 + TOTAL
    assert [one.impossible for one in plan if one.impossible] == reasons
    assert len({one.name for one in plan}) == len(plan)


def test_instructions_that_a_processor_lacks_are_no_cap() -> None:
    plan = listed("openvino", ("fp32",), frozenset({"avx2"}))
    lost = [one.name for one in plan if one.impossible]
    assert lost == ["isa AVX512_CORE", "isa AVX512_CORE_VNNI", "float bf16"]


def test_every_kind_of_unseen_text_has_a_group() -> None:
    assert summary.OTHER not in {summary.group_of(kind) for kind in (*kinds.KINDS, "script:thai")}


def _row(name: str, worst: float, mean: float) -> summary.Row:
    figures = {
        "worst": worst,
        "worst_kind": "controls",
        "mean": mean,
        "kinds": {"controls": [1, worst, worst], "noise": [3, mean, mean]},
    }
    return {"name": name, "impossible": "", "goldens": figures, "unseen": figures}


def test_rows_are_put_together() -> None:
    rows = [_row("base", 1e-3, 4e-4), _row("noise 0", 4e-3, 5e-4), _row("half odd", 2e-3, 6e-4)]
    rows.append({"name": "isa AVX2", "impossible": NO_CAP})
    found = summary.distributions(rows)["unseen"]
    assert found["all"] == {"worst": [1e-3, 2e-3, 4e-3], "mean": [4e-4, 5e-4, 6e-4]}
    assert found["noise"]["mean"][0] == pytest.approx((1e-3 + 3 * 4e-4) / 4)
    verdict = summary.verdict(rows, limit=5e-3)
    assert (verdict["share"], verdict["perturbation"]) == (pytest.approx(0.8), "noise 0")
    assert not verdict["holds"] and summary.verdict(rows[:1], limit=5e-3)["holds"]
    assert "0.80 (at most 0.6 is asked), noise 0" in summary.said("openvino", verdict)
