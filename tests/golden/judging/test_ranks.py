"""Correlations, nDCG and quantized embeddings against scipy, scikit-learn and
sentence-transformers, and against cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import ndcg_score

from goldfold.golden.errors import GoldenError
from goldfold.golden.judging import ranks


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_correlations_are_scipys_with_ties_too() -> None:
    a, b = np.round(drawn(1, 200), 1), np.round(drawn(2, 200) + drawn(1, 200), 1)
    assert len(np.unique(a)) < len(a)
    assert ranks.pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert ranks.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert ranks.ranks(np.array([3.0, 1.0, 3.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert ranks.pearson(np.ones(5), a[:5]) == 0.0


def test_rank_agreement_is_one_for_the_same_order_and_falls_with_noise() -> None:
    rows = drawn(3, 40, 16)
    same, all_ten = ranks.rank_agreements(rows, rows * 3.0)
    assert same.shape == all_ten.shape == (40,)
    assert same == pytest.approx(1.0) and (all_ten == 1.0).all()
    little, much = (ranks.rank_agreements(rows, rows + s * drawn(4, 40, 16)) for s in (0.02, 1.0))
    assert 1 > little[0].mean() > much[0].mean()
    assert little[1].mean() > much[1].mean()


def test_ndcg_is_scikit_learns() -> None:
    queries = drawn(5, 60, 12)
    documents = queries + 1.2 * drawn(6, 60, 12)
    found = ranks.ndcg(queries, documents)
    scores = ranks.normalised(queries) @ ranks.normalised(documents).T
    expected = [ndcg_score(np.eye(60)[[i]], scores[[i]], k=10) for i in range(60)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.1 < found.mean() < 0.9


def test_ties_take_the_mean_of_their_places() -> None:
    same = np.ones((4, 3))
    expected = np.mean(1 / np.log2(1 + np.arange(1, 5)))
    assert ranks.ndcg(same, same) == pytest.approx([expected] * 4)
    many = np.ones((40, 3))
    assert ranks.ndcg(many, many)[0] == pytest.approx(sum(1 / np.log2(np.arange(2, 12))) / 40)


def test_binary_counts_differing_bits() -> None:
    queries, documents = drawn(7, 30, 64), drawn(7, 30, 64) + 0.8 * drawn(8, 30, 64)
    packed = ranks.bits(queries), ranks.bits(documents)
    apart = np.array([[np.bitwise_count(a ^ b).sum() for b in packed[1]] for a in packed[0]])
    scores = ranks.ndcg_binary(*packed)
    for i, row in enumerate(apart):
        better, level = int((row < row[i]).sum()), int((row == row[i]).sum())
        places = np.arange(better + 1, better + level + 1)
        gains = np.where(places <= 10, 1 / np.log2(1 + places), 0.0)
        assert scores[i] == pytest.approx(gains.mean())


def test_quantized_embeddings_are_sentence_transformers() -> None:
    from sentence_transformers.util import quantize_embeddings

    rows, calibration = drawn(9, 50, 32).astype(np.float32), drawn(10, 20, 32).astype(np.float32)
    calibration[:, 3] = 0.25  # a dimension without extent
    ranges = np.stack([calibration.min(axis=0), calibration.max(axis=0)])
    expected = quantize_embeddings(rows, "int8", calibration_embeddings=calibration)
    assert np.array_equal(ranks.int8(rows, ranges), expected)
    assert np.array_equal(ranks.bits(rows), quantize_embeddings(rows, "ubinary"))


def test_unusable_embeddings_are_refused() -> None:
    rows = drawn(11, 5, 4)
    rows[2, 1] = np.nan
    with pytest.raises(GoldenError, match="not finite"):
        ranks.ndcg(rows, rows)
    with pytest.raises(GoldenError, match="too few"):
        ranks.rank_agreements(rows[:2], rows[:2])


def test_rescoring_keeps_what_the_bits_choose_and_all_that_tie() -> None:
    rows = np.array([[4.0, 1, 1], [3, 1, 1], [2, 1, -1], [1, -1, -1]])
    packed = ranks.bits(rows)
    # Of query 0 the bits of 0 and 1 tie at one kept; of query 3 its own are alone.
    found = ranks.ndcg_rescored((packed, packed), (rows, rows), kept=1)
    assert found == pytest.approx([1, 1 / np.log2(3), 1, 1])
    order = [3, 1, 0, 2]
    moved = ranks.ndcg_rescored((packed[order], packed[order]), (rows[order], rows[order]), kept=1)
    assert moved == pytest.approx(found[order])
    # A document that the bits do not choose is not found, however near it is.
    far = np.array([[-1.0, 9, 9]])
    asked = np.array([[1.0, 9, 9]])
    rest = np.concatenate([far, np.repeat(asked * 0.1, 12, axis=0)])
    query = np.repeat(asked, 13, axis=0)
    sides = ranks.bits(query), ranks.bits(rest)
    assert ranks.ndcg_rescored(sides, (query, rest), kept=12)[0] == 0
