from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.shards.validation_split import validation_fraction, validation_per_class

labels_of_sets = st.lists(st.integers(-1, 6), min_size=1, max_size=200).map(np.array)
fractions = st.fractions(Fraction(1, 100), Fraction(99, 100), max_denominator=100)


@given(labels=labels_of_sets, fraction=fractions, seed=st.integers(0, 2**32))
def test_a_fraction_is_exact_and_every_class_is_off_by_less_than_one(
    labels: np.ndarray, fraction: Fraction, seed: int
) -> None:
    chosen = validation_fraction(labels, fraction, seed)
    assert 2 * abs(chosen.sum() - fraction * len(labels)) <= 1
    for label in set(labels.tolist()):
        of_class = labels == label
        exact = Fraction(int(of_class.sum()), len(labels)) * int(chosen.sum())
        assert abs(int(chosen[of_class].sum()) - exact) < 1


@given(labels=labels_of_sets, number=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_a_number_of_each_class(labels: np.ndarray, number: int, seed: int) -> None:
    chosen = validation_per_class(labels, number, seed)
    assert not chosen[labels < 0].any()
    for label in set(labels.tolist()) - {-1}:
        assert chosen[labels == label].sum() == min(number, (labels == label).sum())


def test_the_seed_decides_which_samples() -> None:
    labels = np.arange(200) % 4
    first, again, other = (validation_fraction(labels, Fraction(1, 4), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.sum() == other.sum()
    assert (first != other).any()


def test_equal_classes_share_a_tenth_of_them_equally() -> None:
    labels = np.repeat(np.arange(5), 20)
    chosen = validation_fraction(labels, Fraction(1, 10), seed=3)
    assert np.bincount(labels[chosen]).tolist() == [2] * 5
