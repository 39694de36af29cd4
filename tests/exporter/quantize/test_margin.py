"""benchmarks/margin.py: perturbations are what they are called, noise stays within the grid, and
figures are put together as they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.margins import summary
from benchmarks.margins.making import Calibrated, Maker, build
from benchmarks.margins.measuring import Run, Texts, embedded
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
from goldfold.exporter.driver import cached_stages, preparing
from goldfold.exporter.ir.program import Program, constant
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.rewriting.grid import Grid, paired
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.system.cache import Cache
from goldfold.golden.gate import Gate
from goldfold.golden.judging import unseen_kinds as kinds

FLAGS = frozenset(CAPS.values())
GRIDS = [Grid(8), Grid(8, pairs=True), Grid(7), Grid(4)]


def _numbers(grid: Grid, inputs: int) -> np.ndarray:
    draws = np.random.default_rng(3)
    found = draws.integers(grid.low, grid.high + 1, (60, inputs)).astype(np.int8)
    found[:5], found[5:10] = grid.high, grid.low  # nothing goes further there
    return paired(found) if grid.pairs else found


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("inputs", [48, 49])
def test_noise_stays_legal_and_moves_half_of_its_share_by_one(grid: Grid, inputs: int) -> None:
    old = _numbers(grid, inputs)
    new = moved(old, grid, np.random.default_rng(0), share=0.5)
    steps = new.astype(int) - old
    assert new.dtype == np.int8 and new.min() >= grid.low and new.max() <= grid.high
    assert set(np.unique(steps)) == {-1, 0, 1}
    assert 0.22 < np.count_nonzero(steps) / old.size < 0.28
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
    assert summary.not_measured(rows) == [f"not possible, isa AVX2: {NO_CAP}"]
    found = summary.distributions(rows)["unseen"]
    assert found["all"] == {"worst": [1e-3, 2e-3, 4e-3], "mean": [4e-4, 5e-4, 6e-4]}
    assert found["noise"]["mean"][0] == pytest.approx((1e-3 + 3 * 4e-4) / 4)
    gate = Gate(worst=5e-3, mean=1e-3)
    verdict = summary.verdict(rows, gate)
    assert verdict["share"] == pytest.approx(0.8) and not verdict["holds"]
    assert summary.verdict(rows[:1], gate)["holds"]
    said = summary.said("openvino", verdict)
    assert "0.80 (at most 0.6 is asked), noise 0, goldens, controls" in said
    assert said.endswith("largest mean 6.00e-04 (half odd, goldens), gate's 1e-03")


@pytest.fixture(scope="module")
def maker(legal_gemma: Program, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    recipe = recipes.find("int8")
    assert recipe is not None
    program = legal_gemma.copy()
    preparing.rewrite(program, recipe, Pipeline(), Stages())
    return Maker(program, recipe, Stages(), Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def calibrated(maker: Maker) -> Calibrated:
    return maker.calibrated(None)


def _integers(program: Program) -> dict[str, np.ndarray]:
    values = program.graph.initializers.values()
    found = {value.name or "": constant(value) for value in values}
    return {k: np.asarray(v) for k, v in found.items() if v is not None and v.dtype == np.int8}


def test_the_base_is_what_an_export_quantizes(maker: Maker, calibrated: Calibrated) -> None:
    program, passes = maker.program.copy(), Pipeline()
    assert maker.cache is not None
    before = sorted(maker.cache.folder.iterdir())
    preparing.quantize(program, maker.recipe, passes, Stages(), [], maker.cache)
    assert cached_stages.content(calibrated.quantized()) == cached_stages.content(program)
    assert before == sorted(maker.cache.folder.iterdir()) and before  # it was found there


def test_noise_changes_integers_alone(calibrated: Calibrated) -> None:
    base, noisy = _integers(calibrated.quantized()), _integers(calibrated.quantized(0))
    assert base and base.keys() == noisy.keys()
    changed = sum(np.count_nonzero(noisy[name] != base[name]) for name in base)
    assert changed == pytest.approx(0.005 * sum(one.size for one in base.values()), rel=0.1)
    again = calibrated.quantized()  # noise left what it was drawn from as it was
    assert all((one == base[name]).all() for name, one in _integers(again).items())


def test_an_artifact_is_measured_in_a_process_of_its_own(
    calibrated: Calibrated, tmp_path: Path
) -> None:
    program = calibrated.quantized()
    build(program, "onnxruntime", "fp32", tmp_path)
    ids = ((1, 2, 3), (4, 5))
    texts = Texts(ids, np.ones((2, 4)), ("words", "noise"))
    run = Run("onnxruntime", "fp32", "fp32", 1)
    found = embedded(tmp_path, program.contract, run, {"unseen": texts})["unseen"]
    assert found.shape[0] == 2 and np.isfinite(found).all()
