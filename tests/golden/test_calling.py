"""A run that is wrong in one row of one batch, or in one thread, is found, whichever row it is."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.golden.calling import FURTHER, SIZES, THREADS, batches, judge, measure
from goldfold.golden.errors import GoldenError
from goldfold.golden.store import Goldens
from tests.golden.golden_toys import goldens_of

Rows = Callable[[np.ndarray, np.ndarray], np.ndarray]

EQUAL = sorted((*SIZES, *FURTHER))


def faithful(goldens: Goldens) -> Rows:
    """Looks embeddings up by the first token (golden_toys gives text i the token i+1)."""
    return lambda ids, mask: goldens.embeddings[ids[:, 0] - 1].copy()


def test_every_size_runs_with_equal_and_with_mixed_rows(toy: Goldens) -> None:
    seen: list[tuple[int, ...]] = []
    run, lock = faithful(toy), threading.Lock()

    def watched(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with lock:
            seen.append(tuple(int(n) for n in mask.sum(axis=1)))
        return run(ids, mask)

    steps: list[tuple[int, int]] = []
    found = measure(
        watched, toy, pad_id=9, progress=lambda _, done, all_: steps.append((done, all_))
    )
    several = [lengths for lengths in seen if len(lengths) > 1]
    assert [len(lengths) for lengths in several] == [*EQUAL, *SIZES]
    assert all(len(set(lengths)) == 1 for lengths in several[: len(EQUAL)])
    assert all(len(set(lengths)) > 1 for lengths in several[len(EQUAL) :])
    assert len(seen) - len(several) >= 4 * THREADS  # alone, in threads
    assert found.worst == 0.0 and judge(found, "fp32") == ()
    calls = len(EQUAL) + len(SIZES) + 1
    assert steps == [(k, calls) for k in range(1, calls + 1)]


@pytest.mark.parametrize("size", SIZES)
def test_a_graph_that_is_wrong_in_one_row_is_found_whichever(size: int, toy: Goldens) -> None:
    run = faithful(toy)
    for row in range(size):

        def wrong(ids: np.ndarray, mask: np.ndarray, row: int = row) -> np.ndarray:
            found = run(ids, mask)
            if len(found) == size:
                found[row] = np.roll(found[row], 1)
            return found

        reasons = judge(measure(wrong, toy, threads=0), "fp32")
        assert {one.way for one in reasons} == {
            f"row {row} of {size} equal rows", f"row {row} of {size} mixed rows",
        }  # fmt: skip
        assert all(one.kind == "distance" and f"row {row} of" in one.sentence for one in reasons)


@pytest.mark.parametrize("row", range(33))
def test_rows_that_are_wrong_in_any_batch_are_found(row: int, toy: Goldens) -> None:
    run = faithful(toy)

    def wrong(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        found = run(ids, mask)
        found[row : row + 1] *= np.nan
        return found

    reasons = judge(measure(wrong, toy, threads=0), "int4")
    assert reasons and {one.kind for one in reasons} == {"unusable"}


def test_rows_that_change_places_are_found(toy: Goldens) -> None:
    run = faithful(toy)
    reasons = judge(measure(lambda ids, mask: run(ids, mask)[::-1], toy, threads=0), "fp32")
    assert {one.way.rpartition(" of ")[2] for one in reasons} == {
        f"{size} mixed rows" for size in SIZES
    }


def test_threads_that_get_the_vector_of_another_are_found(toy: Goldens) -> None:
    shared: list[np.ndarray] = []
    barrier = threading.Barrier(THREADS)

    def racing(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if len(ids) > 1 or threading.current_thread() is threading.main_thread():
            return faithful(toy)(ids, mask)
        shared[:] = [faithful(toy)(ids, mask)]  # one answer, for whoever wrote last
        barrier.wait(timeout=60)
        return shared[0]

    reasons = judge(measure(racing, toy), "fp32")
    assert {one.way for one in reasons} == {f"alone, in {THREADS} threads"}


def test_norms_are_held_as_elsewhere(toy: Goldens) -> None:
    run = faithful(toy)
    (first, *_) = judge(measure(lambda i, m: 1.01 * run(i, m), toy, threads=0), "fp32")
    assert first.kind == "norm" and first.limit is not None and first.limit < 1e-5


def test_heads_are_cut_as_elsewhere(toy: Goldens) -> None:
    head = toy.embeddings[:, :8] / np.linalg.norm(toy.embeddings[:, :8], axis=1, keepdims=True)
    found = measure(lambda ids, mask: head[ids[:, 0] - 1], toy, dims=8, threads=0)
    assert found.dim == 8 and found.worst < 1e-14
    with pytest.raises(GoldenError, match="cannot judge 25"):
        measure(faithful(toy), toy, dims=25)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=120))
def test_batches_cost_little_and_have_their_size(lengths: list[int]) -> None:
    made = list(batches(lengths))
    assert [len(rows) for _, rows in made] == [*EQUAL, *SIZES]
    least = min(lengths)
    for _, rows in made:
        assert all(0 <= row < len(lengths) for row in rows)
        most = max(lengths[row] for row in rows)
        if sum(length <= 48 for length in lengths) >= 2 and len(rows) > 7:
            assert len(rows) * most <= 33 * 48 and most >= least


def test_no_goldens_make_no_batches() -> None:
    assert list(batches([])) == []
    rows = np.random.default_rng(0).standard_normal((1, 4))
    assert measure(faithful(goldens_of(rows)), goldens_of(rows)).worst < 1e-14
