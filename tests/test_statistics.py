"""Statistics: values by hand, by all resamples of a tiny table, and by rliable 1.2 (arch 7.2, pandas 2)."""

import itertools

import numpy as np
import pytest

from spot_jax.report import statistics

OURS = [np.array([1.0, 2, 4, 9]), np.array([5.0, 7, 6, 8])]
THEIRS = [np.array([1.0, 3, 5, 0]), np.array([6.0, 6, 2, 9])]


def test_mean_and_standard_deviation():
    assert statistics.mean_and_std(np.array([1.0, 2, 3])) == (2, 1)  # sqrt((1 + 0 + 1) / 2)
    assert statistics.mean_and_std(np.array([4.0])) == (4, None)


def test_as_rliable_has_them():
    for scores, value, low, high in ((OURS, 5.5, 3.75, 7.5), (THEIRS, 4.0, 1.75, 5.5)):
        found = statistics.interquartile_mean(scores)  # of OURS (4 + 5 + 6 + 7) / 4
        assert found.value == value
        np.testing.assert_allclose([found.low, found.high], [low, high], atol=0.26)  # a step of its distribution
    found = statistics.probability_of_improvement(OURS, THEIRS)
    assert found.value == (10.5 / 16 + 9 / 16) / 2  # wins and half the ties, of 16 pairs each
    np.testing.assert_allclose([found.low, found.high], [0.3125, 0.875], atol=0.04)
    profile = statistics.performance_profile(OURS, np.array([0.0, 2, 5, 8]))
    np.testing.assert_array_equal(profile.value, [1, 0.75, 0.5, 0.125])
    np.testing.assert_array_equal(profile.low, [1, 0.5, 0.25, 0])
    np.testing.assert_array_equal(profile.high, [1, 1, 0.75, 0.375])


def test_interval_is_that_of_all_resamples():
    scores = [np.array([0.0, 10, 20]), np.array([40.0, 70, 90])]
    draws = [list(itertools.product(x, repeat=3)) for x in scores]
    means = [np.mean([np.mean(a), np.mean(b)]) for a in draws[0] for b in draws[1]]
    assert len(means) == 27**2  # each as probable as the others
    found = statistics.mean(scores)
    assert found.value == pytest.approx((10 + 200 / 3) / 2)
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]), atol=1.7)  # a step
    assert statistics.mean(scores) == found  # seeded
    pooled = statistics.bootstrapped(lambda *xs, axis: np.concatenate(xs, axis).mean(axis), scores)
    assert found.high - found.low <= pooled.high - pooled.low + 1e-9  # a task's scores are never drawn for another's


def test_one_seed_has_no_interval():
    assert statistics.mean([np.array([3.0]), np.array([1.0, 2])]) == statistics.Estimate(2.25)


def test_tasks_count_alike_however_many_seeds_they_have():
    scores = [np.array([0.0, 0, 0, 0]), np.array([8.0, 8])]
    assert statistics.mean(scores).value == 4
    assert statistics.performance_profile(scores, np.array([4.0])).value == 0.5
    assert statistics.interquartile_mean(scores).value == 2  # of 0 0 [0 0 8] 8 ... trimmed by one: 0 0 0 8
    with pytest.raises(ValueError, match='other tasks'):
        statistics.probability_of_improvement(scores, scores[:1])


def test_best_of_n_is_the_mean_over_all_subsets():
    scores = np.array([3.0, 0, 10, 3, 5])
    by_hand = [np.mean([max(chosen) for chosen in itertools.combinations(scores, n)]) for n in range(1, 6)]
    assert by_hand[0] == 4.2
    np.testing.assert_allclose(statistics.best_of(scores), by_hand)
    np.testing.assert_allclose(statistics.best_of(np.array([1.0, 2, 4])), [7 / 3, (2 + 4 + 4) / 3, 4])
    many = statistics.best_of(np.arange(3000.0))
    assert many.shape == (100,)
    np.testing.assert_allclose(
        many, np.arange(1, 101) / np.arange(2, 102) * 3001 - 1
    )  # of 0 to N - 1: n(N+1)/(n+1) - 1
