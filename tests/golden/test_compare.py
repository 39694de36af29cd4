from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goldfold.golden.batching import mixed_batches
from goldfold.golden.compare import measure, reading, sampled_pairs, token_faults
from goldfold.golden.errors import GoldenError
from goldfold.golden.store import Goldens
from tests.golden.golden_toys import goldens_of


class Artifact:
    """Looks embeddings up by the first token (conftest gives text i the token i+1)."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self.embeddings = embeddings
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self.calls.append((ids, mask))
        return self.embeddings[ids[:, 0] - 1]


@given(st.floats(1e-9, math.pi), st.floats(1e-3, 1e3))
def test_distance_of_a_known_angle(angle: float, scale: float) -> None:
    golden = np.array([1.0, 0.0, 0.0])
    turned = scale * np.array([math.cos(angle), math.sin(angle), 0.0])
    # 1-cos = 2 sin^2(angle/2), which does not cancel. The components carry rounding of 2^-53 each,
    # so the distance between the vectors, sqrt(2 d), is off by some 4 * 2^-53 absolute.
    exact = 2.0 * math.sin(angle / 2.0) ** 2
    got = reading(turned, golden)
    assert math.sqrt(2.0 * got.distance) == pytest.approx(math.sqrt(2.0 * exact), abs=2.0**-50)
    # The norm is off by as much of itself, and what is left of it beside 1 by a rounding of 1.
    assert got.norm_error == pytest.approx(abs(scale - 1.0), abs=scale * 2.0**-50 + 2.0**-53)


def test_distances_below_what_a_dot_product_could_see() -> None:
    got = reading(np.array([1.0, 1e-10]), np.array([1.0, 0.0]))
    assert got.distance == pytest.approx(5e-21, rel=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_unusable_embeddings_read_infinite(value: float) -> None:
    got = reading(np.full(3, value), np.ones(3))
    assert not got.finite and got.distance == got.norm_error == got.delta == math.inf


def test_a_faithful_artifact_measures_zero(toy: Goldens) -> None:
    found = measure(Artifact(toy.embeddings), toy)
    assert found.worst == found.worst_padded == found.mean == 0.0
    assert found.similarity_alone == found.similarity_padded == 0.0
    assert [row.id for row in found.rows] == [case.id for case in toy.cases]


def test_calls_are_alone_without_padding_then_padded_on_the_right(toy: Goldens) -> None:
    artifact = Artifact(toy.embeddings)
    seen: list[tuple[int, int]] = []
    measure(artifact, toy, pad_id=99, progress=lambda _, done, total: seen.append((done, total)))
    alone, padded = artifact.calls[: len(toy.cases)], artifact.calls[len(toy.cases) :]
    for case, (ids, mask) in zip(toy.cases, alone, strict=True):
        assert ids.dtype == mask.dtype == np.int64
        assert ids.tolist() == [list(case.token_ids)] and mask.all()
    rows = [row for ids, mask in padded for row in zip(ids, mask, strict=True)]
    # All are short: once in batches of four, and once all together.
    expected = sorted(2 * [c.token_ids for c in toy.cases])
    assert sorted(tuple(i[m == 1]) for i, m in rows) == expected
    assert len(padded[-1][0]) == len(toy.cases)
    assert all((i[m == 0] == 99).all() and (np.diff(m) <= 0).all() for i, m in rows)
    assert seen == [(k, len(artifact.calls)) for k in range(1, len(artifact.calls) + 1)]


def test_harm_done_by_padding_alone_is_seen_as_such(toy: Goldens) -> None:
    def poisoned(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        out = toy.embeddings[ids[:, 0] - 1].copy()
        out[mask.sum(axis=1) + 5 < mask.shape[1]] = np.nan
        return out

    found = measure(poisoned, toy)
    assert found.worst == 0.0 and found.worst_padded == math.inf
    assert found.similarity_alone == 0.0 and found.similarity_padded == math.inf
    assert not found.ranked[0].padded.finite and found.worst_id == found.ranked[0].id
    assert found.plain()["worst_padded"] == math.inf


def test_similarity_error_is_that_of_the_moved_pair() -> None:
    goldens = goldens_of(np.eye(3))
    moved = np.eye(3)
    moved[0] = [math.cos(0.3), math.sin(0.3), 0.0]
    found = measure(Artifact(moved), goldens)
    assert found.similarity_alone == pytest.approx(math.sin(0.3), abs=1e-15)
    assert found.worst == pytest.approx(1.0 - math.cos(0.3), abs=1e-15)
    assert found.worst_id == "text-0"


def test_dims_cut_and_normalise_the_goldens(toy: Goldens) -> None:
    head = toy.embeddings[:, :8].astype(np.float64)
    head /= np.linalg.norm(head, axis=1, keepdims=True)
    found = measure(Artifact(head), toy, dims=8)
    # Two f64 normalisations of the same values differ by roundings of 2^-53: squared, nothing.
    assert found.dim == 8 and found.worst < 1e-30
    # Goldens of a model that does not normalise are cut, and no more.
    free = goldens_of(3.0 * toy.embeddings, normalized=False)
    cut = measure(Artifact(free.embeddings[:, :8]), free, dims=8)
    assert not cut.normalized and cut.rows[0].alone.norm_error == 0.0
    assert not measure(Artifact(free.embeddings), free).normalized
    assert measure(Artifact(2 * head), toy, dims=8).rows[0].alone.norm_error == pytest.approx(1.0)
    with pytest.raises(GoldenError, match="cannot judge 25"):
        measure(Artifact(head), toy, dims=25)


def test_wrong_shapes_are_named(toy: Goldens) -> None:
    with pytest.raises(GoldenError, match=r"\(1, 23\).*\(1, 24\)"):
        measure(Artifact(toy.embeddings[:, :-1]), toy)


@given(st.lists(st.integers(1, 3000) | st.integers(1, 9000), min_size=1, max_size=150))
def test_batches_hold_every_text_once_and_mix_long_with_short(lengths: list[int]) -> None:
    batches = mixed_batches(lengths)
    assert sorted(r for batch in batches for r in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= 4 for batch in batches)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[r] for r in batch) ** 2 <= 1 << 25
    if len(lengths) >= 4 and max(lengths) <= 2048:
        first = [lengths[r] for r in batches[0]]
        assert min(first) == min(lengths) and max(first) == max(lengths)
    long = sum(length > 1000 for length in lengths)
    if 4 * long <= len(lengths) and max(lengths) <= 2048:
        assert sum(any(lengths[r] > 1000 for r in b) for b in batches) <= (long + 1) // 2


def test_token_faults_name_the_first_difference(toy: Goldens) -> None:
    read: list[str] = []

    def tokenize(batch: list[str], call: str) -> list[list[int]]:
        assert not call
        read.extend(batch)
        out = [list(case.token_ids) for case in toy.cases]
        out[5][2] = 77
        out[6].append(8)
        out[7].pop()
        return out

    faults = {fault.id: fault for fault in token_faults(tokenize, toy)}
    assert read[1] == "query: words 1 \n"
    assert faults.keys() == {"text-5", "text-6", "text-7"}
    assert faults["text-5"].position == 2 and faults["text-5"].found == (77, 6, 6, 6)
    assert faults["text-5"].expected == (6, 6, 6, 6)
    assert faults["text-6"].position == 7 and faults["text-6"].found == (8,)
    assert faults["text-7"].position == 7 and faults["text-7"].expected == (8,)
    with pytest.raises(GoldenError, match="returned 0 of 9"):
        token_faults(lambda batch, call: [], toy)


def test_sampled_pairs_say_what_changed_and_leave_out_what_is_unusable() -> None:
    rng = np.random.default_rng(3)
    goldens = rng.standard_normal((40, 8))
    assert all(apart == 0.0 for _, apart in sampled_pairs(goldens * 2.0, goldens))
    moved = goldens.copy()
    moved[3] = -moved[3]
    found = sampled_pairs(moved, goldens)
    assert len(found) == 400 and found == sampled_pairs(moved, goldens)
    changed = [(there, apart) for there, apart in found if apart]
    assert 0 < len(changed) < 40
    assert all(abs(apart + 2 * there) < 1e-2 for there, apart in changed)
    moved[3], moved[4] = np.nan, 0.0
    kept = sampled_pairs(moved, goldens)
    assert 300 < len(kept) < 400 and all(np.isfinite(pair).all() for pair in kept)
