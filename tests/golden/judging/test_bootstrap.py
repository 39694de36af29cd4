"""The upper end of a loss: right where it can be known, paired, and the same at every run."""

from __future__ import annotations

import numpy as np
import pytest

from goldfold.golden.judging import bootstrap, ranks


def test_no_loss_has_no_upper_end() -> None:
    scores = np.random.default_rng(1).random(500)
    assert bootstrap.mean_loss(scores, scores) == (0.0, 0.0)


def test_upper_end_is_that_of_the_normal_approximation() -> None:
    """A mean of 3,000 independent differences is normal: its 97.5 % point lies 1.96 standard errors
    above. The bootstrap's own noise is about 3 % of that distance at 2,000 resamples."""
    random = np.random.default_rng(2)
    reference = random.uniform(0.4, 1.0, 3000)
    artifact = reference - 0.02 + 0.1 * random.standard_normal(3000)
    lost, upper = bootstrap.mean_loss(reference, artifact)
    error = (reference - artifact).std() / np.sqrt(3000) / reference.mean()
    assert lost == pytest.approx((reference - artifact).mean() / reference.mean())
    assert (upper - lost) / error == pytest.approx(1.96, rel=0.15)


def test_pairing_takes_out_what_both_find_hard() -> None:
    random = np.random.default_rng(3)
    hard = random.integers(0, 2, 1000).astype(float)
    lost, upper = bootstrap.mean_loss(hard, hard * 0.99)
    assert lost == pytest.approx(0.01)
    assert upper == pytest.approx(0.01, abs=1e-9)
    unpaired = bootstrap.mean_loss(hard, random.permutation(hard) * 0.99)
    assert unpaired[1] > 0.05


def test_same_seed_gives_the_same_and_another_does_not() -> None:
    random = np.random.default_rng(4)
    a, b = random.random(300), random.random(300)
    first = bootstrap.mean_loss(a, b, resamples=300)
    assert first == bootstrap.mean_loss(a, b, resamples=300)
    assert first != bootstrap.mean_loss(a, b, resamples=300, seed=1)


def test_loss_of_a_correlation_is_resampled_by_text() -> None:
    random = np.random.default_rng(5)
    people, noise, more = (random.random((30, 30)) for _ in range(3))
    people, noise, more = (matrix + matrix.T for matrix in (people, noise, more))
    reference, artifact = people + 0.5 * noise, people + 0.5 * noise + 0.7 * more
    lost, upper = bootstrap.pair_loss(ranks.pearson, people, reference, artifact, 200)
    assert 0 < lost < upper < 1
    same = bootstrap.pair_loss(ranks.spearman, people, reference, reference, 50)
    assert same == (0.0, 0.0)


def test_a_reference_that_answers_nothing_loses_nothing() -> None:
    nothing = np.zeros(20)
    assert bootstrap.mean_loss(nothing, nothing, 50)[1] == 0.0
