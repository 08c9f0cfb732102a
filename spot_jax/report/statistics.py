"""Statistics of scores over tasks and seeds, after "Deep RL at the Edge of the Statistical Precipice" (2108.13264).

`rliable`, that paper's library, has ten packages in its train, and those of today do not import together (arch below 8,
which it needs, with pandas 3): its method is here in SciPy's terms, and the tests compare with numbers that it gave.

`scores` are a method's, an array of its seeds' for each task: tasks may differ in how many.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

RESAMPLES = 2000
LEVEL = 0.95  # of the confidence intervals
MAX_BUDGET = 100

Scores = Sequence[np.ndarray]


class Estimate(NamedTuple):
    """A statistic with its confidence interval, which needs two seeds of every task."""

    value: Any
    low: Any = None
    high: Any = None


def mean_and_std(values: np.ndarray) -> tuple[float, float | None]:
    """The mean and the sample standard deviation (n - 1), which one value has none of."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def bootstrapped(statistic: Callable[..., Any], samples: Scores) -> Estimate:
    """`statistic(*samples, axis)` with the interval of a bootstrap that draws anew within each sample.

    The seed is fixed, so that the same scores give the same interval. Samples may have leading axes.
    """
    value = statistic(*samples, axis=-1)
    if min(sample.shape[-1] for sample in samples) < 2:
        return Estimate(value)
    options: dict[str, Any] = {'n_resamples': RESAMPLES, 'confidence_level': LEVEL, 'method': 'percentile'}
    found = stats.bootstrap(tuple(samples), statistic, axis=-1, vectorized=True, rng=0, **options)
    return Estimate(value, *found.confidence_interval)


def mean(scores: Scores) -> Estimate:
    """The mean over tasks of the mean over seeds."""
    return bootstrapped(lambda *xs, axis: np.mean([x.mean(axis) for x in xs], axis=0), scores)


def interquartile_mean(scores: Scores) -> Estimate:
    """The mean of the middle half of all scores of all tasks."""
    return bootstrapped(lambda *xs, axis: stats.trim_mean(np.concatenate(xs, axis), 0.25, axis), scores)


def probability_of_improvement(ours: Scores, theirs: Scores) -> Estimate:
    """How probably a seed of ours scores higher than one of theirs, a tie counting half: the mean over tasks."""
    if len(ours) != len(theirs):
        raise ValueError('the two have other tasks')

    def statistic(*samples: np.ndarray, axis: int) -> Any:
        del axis  # the last one
        each = zip(samples[: len(ours)], samples[len(ours) :], strict=True)
        wins = [(np.sign(x[..., :, None] - y[..., None, :]) + 1).mean((-2, -1)) / 2 for x, y in each]
        return np.mean(wins, axis=0)

    return bootstrapped(statistic, [*ours, *theirs])


def performance_profile(scores: Scores, thresholds: np.ndarray) -> Estimate:
    """The share of seeds that score higher than each of the thresholds [T], the mean over tasks: [T]."""
    above = [(values > thresholds[:, None]).astype(float) for values in scores]
    return bootstrapped(lambda *xs, axis: np.mean([x.mean(axis) for x in xs], axis=0), above)


def best_of(scores: np.ndarray) -> np.ndarray:
    """The expected score of the best of n policies, for n from 1 to all of them (at most `MAX_BUDGET`), `[n]`.

    In closed form, over all subsets of n of the N policies: the k-th smallest score is the best of
    C(k - 1, n - 1) of the C(N, n) subsets.
    """
    total = len(scores)
    n = np.arange(1, min(total, MAX_BUDGET) + 1)[:, None]
    k = np.arange(1, total + 1)
    log_choose = lambda a, b: special.gammaln(a + 1) - special.gammaln(b + 1) - special.gammaln(a - b + 1)
    share = np.where(k >= n, np.exp(log_choose(k - 1, np.minimum(n, k) - 1) - log_choose(total, n)), 0)
    return share @ np.sort(scores)
