"""Intervals, against SciPy's binomial distribution and against resampled images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_processes import run_as_ranks
from scipy.stats import binom, binomtest

from trainer.distributed.collectives import rank, world_size
from trainer.evaluation.evaluators import Evaluators, LinearClassifiers, evaluate_features
from trainer.evaluation.features import Features
from trainer.evaluation.measures.intervals import bootstrap_interval, wilson_interval


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60_000), st.floats(0, 1))
def test_it_is_the_percentiles_of_the_binomial_distribution(images: int, share: float) -> None:
    right = round(share * images)
    wanted = binom.ppf([0.025, 0.975], images, right / images) / images
    # a percentile that lies on a step of the distribution may be on either side of it
    assert bootstrap_interval(right / images, images) == pytest.approx(wanted, abs=1.01 / images)


@pytest.mark.parametrize(("images", "right", "right_in_5"), [(40, 31, 38), (300, 12, 290), (200, 200, 200)])
def test_it_is_what_resampling_the_images_gives(images: int, right: int, right_in_5: int) -> None:
    of_images = np.zeros((images, 2))
    of_images[:right, 0] = of_images[:right_in_5, 1] = 1
    drawn = np.random.default_rng(0).integers(images, size=(40_000, images), dtype=np.int32)
    for column, count in enumerate((right, right_in_5)):
        accuracies = np.concatenate([of_images[some, column].mean(1) for some in np.split(drawn, 40)])
        wanted = np.percentile(accuracies, [2.5, 97.5])
        assert bootstrap_interval(count / images, images) == pytest.approx(wanted, abs=1.01 / images)


def test_known_cases() -> None:
    assert bootstrap_interval(0.0, 7) == (0, 0)
    assert bootstrap_interval(1.0, 50_000) == (1, 1)
    # of 2 images, a resample has 0, 1 and 2 correct ones with probability 1/4, 1/2 and 1/4
    assert bootstrap_interval(0.5, 2) == (0, 1)


def intervals() -> dict[str, list[tuple[float, tuple[float, float]]]]:
    """Top-1 and top-5 with their intervals. Ranks have every other one of 60 and 37 images; some have no label."""
    generator = torch.Generator().manual_seed(3)
    rows, labels = torch.randn(97, 4, generator=generator), torch.arange(97) % 3
    rows[:, 0] += labels
    labels[::13] = -1
    here = torch.arange(rank(), 97, world_size())
    train, test = here[here < 60], here[here >= 60]
    bank, queries = (Features({"online": rows[own]}, labels[own], own) for own in (train, test))
    found = evaluate_features(
        Evaluators(knn=(5,), linear_fast=True),
        bank,
        queries,
        labels[:60].numpy(),
        ["a", "b", "c"],
        LinearClassifiers(bank, 3),
    )
    return {
        each.evaluator: [(each.result[name], each.result[f"{name}_bootstrap"]) for name in ("top1", "top5")]
        for each in found
    }


def test_evaluators_have_the_interval_of_all_labeled_images_on_every_rank(tmp_path: Path) -> None:
    alone = intervals()
    assert alone.keys() == {"knn_5", "linear_fast"}
    images = sum(number % 13 != 0 for number in range(60, 97))
    for accuracies in alone.values():
        for share, interval in accuracies:
            assert interval == pytest.approx(tuple(binom.ppf([0.025, 0.975], images, share) / images))
    assert run_as_ranks(intervals, 2, tmp_path, ()) == [alone, alone]


@pytest.mark.parametrize(("share", "samples"), [(0.0, 10), (1.0, 10), (0.5, 1000), (0.934, 10000), (0.2, 5)])
def test_wilson_interval_is_scipy_s(share: float, samples: int) -> None:
    interval = binomtest(round(share * samples), samples).proportion_ci(method="wilson")
    assert wilson_interval(share, samples) == pytest.approx((interval.low, interval.high), abs=1e-9)
