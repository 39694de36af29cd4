"""The grammar of budgets, and the cheapest choice of options under one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.errors import UsageError
from goldfold.exporter.search import assign, budget
from goldfold.exporter.search.search import Calls


def test_budget_is_read() -> None:
    both = budget.parse(["worst_cos>=0.995", " mean_cos ≥ .999 "])
    assert both.worst == pytest.approx(5e-3)
    assert both.mean == pytest.approx(1e-3)
    assert str(both) == "worst_cos >= 0.995, mean_cos >= 0.999"
    assert budget.parse(["mean_cos>=9.9e-1"]).worst is None


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([], "give at least one --budget"),
        ([""], "is no budget"),
        (["worst_cos"], "is no budget"),
        (["worst_cos>=much"], "is no budget"),
        (["worst_cos>=nan"], "is no budget"),
        (["worst_cos>=0.9 or so"], "is no budget"),
        (["best_cos>=0.9"], "no best_cos"),
        (["worst_cos<=0.9"], "lower bound"),
        (["worst_cos>=1"], "between 0 and 1"),
        (["mean_cos>=0"], "between 0 and 1"),
        (["mean_cos>=0.9", "mean_cos>=0.95"], "twice"),
    ],
)
def test_no_budget_is_refused_in_a_line(texts: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        budget.parse(texts)
    assert "\n" not in str(caught.value)


def test_strain_is_that_of_the_tighter_bound() -> None:
    errors = np.array([1e-3, 3e-3])
    assert budget.Budget(worst=6e-3).strain(errors) == pytest.approx(0.5)
    assert budget.Budget(worst=6e-3, mean=1e-3).strain(errors) == pytest.approx(2.0)
    assert budget.Budget(mean=2e-3).loads(errors) == pytest.approx([1.0])
    assert not budget.Budget(mean=1e-3).holds(errors)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Costs and loads of up to five groups; the first option costs most and loads nothing, as
    floating point does."""
    rows = draw(st.integers(1, 4))
    number = st.floats(0, 1.5, width=32)
    costs, loads = [], []
    for _ in range(draw(st.integers(1, 5))):
        options = draw(st.integers(1, 4))
        costs.append(np.array([2.0, *draw(st.lists(number, min_size=options - 1,
                                                   max_size=options - 1))]))  # fmt: skip
        load = np.array(
            draw(
                st.lists(
                    st.lists(number, min_size=rows, max_size=rows),
                    min_size=options,
                    max_size=options,
                )
            )
        )
        load[0] = 0
        loads.append(load)
    return costs, loads


@given(problems())
@settings(max_examples=60, deadline=None)
def test_assignment_holds_and_is_the_cheapest(
    problem: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    costs, loads = problem
    found, simple = assign.cheapest(costs, loads), assign.greedy(costs, loads)
    assert found is not None
    assert simple is not None
    assert assign.fits(loads, found)
    assert assign.cost(costs, found) <= assign.cost(costs, simple)
    every = product(*(range(len(c)) for c in costs))
    least = min(assign.cost(costs, one) for one in every if assign.fits(loads, one))
    # HiGHS is asked for 1e-3 of the cost; its own tolerances are far below.
    assert assign.cost(costs, found) <= least * (1 + 1.1e-3) + 1e-6


def test_what_cannot_hold_has_no_assignment() -> None:
    assert assign.cheapest([np.array([1.0])], [np.array([[2.0]])]) is None


def test_costs_of_bytes_are_no_matter_of_tolerance() -> None:
    """Half a byte of a gigabyte is not asked for, a thousandth of it is."""
    costs = [np.array([1e9, 0.999e9]), np.array([5e6, 4e6])]
    loads = [np.array([[0.0], [0.9]]), np.array([[0.0], [0.2]])]
    assert assign.cheapest(costs, loads) in {(1, 0), (0, 1)}
    loads[1][1] = 0.05
    assert assign.cheapest(costs, loads) == (1, 1)


def _calls(limit: float) -> Calls:
    errors = [np.array([[0.0], [2e-3]]), np.array([[0.0], [1e-3]])]
    costs = [np.array([10.0, 1.0]), np.array([10.0, 5.0])]
    return Calls(budget.Budget(worst=limit), errors, costs)


def test_a_choice_that_missed_never_comes_back() -> None:
    calls = _calls(4e-3)
    assert calls.choose() == (1, 1)
    calls.learn((1, 1), np.array([4.8e-3]))  # 1.6 times the estimate
    assert calls.choose() == (1, 0)
    calls.learn((1, 0), np.array([4.2e-3]))
    assert calls.choose() == (0, 1)
    calls.learn((0, 1), np.array([9e-3]))
    assert calls.choose() == (0, 0)


def test_first_measurement_may_loosen_the_estimate() -> None:
    calls = _calls(2.5e-3)
    assert calls.choose() == (1, 0)
    calls.learn((1, 0), np.array([1e-3]))
    assert calls.choose() == (1, 1)
