import math
from dataclasses import replace

import pytest

from launch.plan.assumptions import Assumptions
from launch.plan.random_failures import RandomFailures
from launch.plan.search import compare_spares, search_interval, spares_that_pay, young_interval

RANDOM = RandomFailures.draw(3)
RUN = Assumptions(
    nodes=100,
    ranks_per_node=8,
    spares=0,
    mtbf_seconds=100 * 20_000.0,
    rank_failures=0.0,
    step_seconds=1.0,
    evaluation_seconds=0.0,
    every_steps=5000,
    save_seconds=10.0,
    write_seconds=0.0,
    in_place_seconds=5.0,
    start_seconds=60.0,
    queue_seconds=600.0,
    detection_seconds=25.0,
    first_detection_seconds=25.0,
    release_seconds=3.0,
    steps=10**7,
    time_limit_seconds=math.inf,
    recovers_in_place=True,
    survivors_save=False,
)


def test_young_counts_only_failures_that_go_back_to_a_checkpoint() -> None:
    assert young_interval(RUN) == round(math.sqrt(2 * 10 * 20_000))
    half = replace(RUN, rank_failures=0.5, survivors_save=True)
    # Only the loss of the first of 100 nodes leaves nobody who saves.
    assert young_interval(half) == round(math.sqrt(2 * 10 * 40_000 * 100))
    assert young_interval(replace(half, rank_failures=1.0)) is None
    assert young_interval(replace(half, recovers_in_place=False)) == young_interval(RUN)


def test_the_best_interval_is_that_of_dalys_higher_order_formula() -> None:
    found = search_interval(RUN, RANDOM)
    # Daly 2006, equation 37: the optimum of the exact formula, which Young's approaches from above
    mtbf, save = 20_000.0, 10.0
    x = math.sqrt(save / (2 * mtbf))
    best = math.sqrt(2 * save * mtbf) * (1 + x / 3 + x * x / 9) - save
    # The optimum is flat: a third away from it costs less than the luck of the simulation.
    assert found.best == pytest.approx(best, rel=0.34)
    at_best = found.tried[found.best].goodput
    assert all(one.goodput <= at_best for one in found.tried.values())
    assert found.young == 632


def test_a_spare_pays_if_a_requeue_costs_more_than_an_idle_node() -> None:
    cheap = compare_spares(RUN, RANDOM)
    assert spares_that_pay(cheap) == 0
    assert list(cheap) == list(range(9))
    # Half an hour until the job runs again, at a failure every six hours: 8 % against 1 % for a spare.
    dear = compare_spares(replace(RUN, start_seconds=1800.0), RANDOM)
    assert spares_that_pay(dear) >= 1
    assert dear[1].goodput > dear[0].goodput + 0.02
    nobody = compare_spares(replace(RUN, start_seconds=1800.0, recovers_in_place=False), RANDOM)
    assert spares_that_pay(nobody) == 0
