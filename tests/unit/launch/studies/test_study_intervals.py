"""The intervals of studies, against simulated seeds with known means."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from launch.studies.intervals import EFFECT_VARIANCE, for_every_number, for_fixed_number

SEQUENCES, MOST = 4000, 60


def intervals_miss(
    width: Callable[[int], float], mean: float, spread: float, seed: int, first: int = 2
) -> float:
    """Return the fraction of sequences in which the interval of any number of values misses the mean."""
    values = np.random.default_rng(seed).normal(mean, spread, (SEQUENCES, MOST))
    missed = np.zeros(SEQUENCES, bool)
    for samples in range(first, MOST + 1):
        missed |= abs(means(values, samples) - mean) > width(samples) * errors(values, samples)
    return float(missed.mean())


def means(values: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    return np.asarray(values[:, :samples].mean(axis=1))


def errors(values: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    return np.asarray(values[:, :samples].std(axis=1, ddof=1) / math.sqrt(samples))


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (5.0, 0.3), (-1.0, 40.0)])
def test_looking_after_each_seed_keeps_the_error_rate(mean: float, spread: float) -> None:
    rate = intervals_miss(for_every_number, mean, spread, seed=1)
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / SEQUENCES)


def test_looking_after_each_seed_with_an_interval_for_a_fixed_number_does_not() -> None:
    assert intervals_miss(for_fixed_number, 0.0, 1.0, seed=1) > 0.2


def test_a_clear_difference_is_decided_by_few_seeds() -> None:
    """A difference that is four standard deviations from the margin is excluded by seven seeds in most sequences."""
    values = np.random.default_rng(2).normal(4.0, 1.0, (SEQUENCES, MOST))
    decided = np.full(SEQUENCES, MOST + 1)
    for samples in range(MOST, 1, -1):
        lowest = means(values, samples) - for_every_number(samples) * errors(values, samples)
        decided[lowest > 0] = samples
    assert np.median(decided) <= 5
    assert np.quantile(decided, 0.95) <= 7


@pytest.mark.parametrize("samples", [3, 4, 7, 30])
def test_the_interval_ends_where_the_bayes_factor_is_20(samples: int) -> None:
    """The factor by integration over effects, which the closed form must agree with."""
    t = for_every_number(samples)
    effects = np.linspace(-40, 40, 200_001)
    prior = stats.norm.pdf(effects, scale=math.sqrt(EFFECT_VARIANCE))
    against = np.trapezoid(stats.nct.pdf(t, samples - 1, effects * math.sqrt(samples)) * prior, effects)
    assert against / stats.t.pdf(t, samples - 1) == pytest.approx(20, rel=1e-4)


def test_too_few_values_have_no_interval() -> None:
    assert math.isinf(for_fixed_number(1))
    assert math.isinf(for_every_number(1))
    assert math.isinf(for_every_number(2))
    assert for_fixed_number(3) == pytest.approx(4.303, abs=1e-3)
