"""Simulated runs against closed forms of other authors, against plain arithmetic, and against what must always hold."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.plan.assumptions import Assumptions
from launch.plan.outcome import REDONE, RESTARTING, SPARE, USEFUL
from launch.plan.random_failures import RandomFailures
from launch.plan.simulation import simulate

RANDOM = RandomFailures.draw(5)
FEW = RandomFailures.draw(5, repetitions=200, events=60)
RUN = Assumptions(
    nodes=1,
    ranks_per_node=8,
    spares=0,
    mtbf_seconds=10_000.0,
    rank_failures=0.5,
    step_seconds=1.0,
    evaluation_seconds=0.0,
    every_steps=1000,
    save_seconds=100.0,
    write_seconds=0.0,
    in_place_seconds=5.0,
    start_seconds=300.0,
    queue_seconds=0.0,
    detection_seconds=0.0,
    first_detection_seconds=0.0,
    release_seconds=0.0,
    steps=10**8,
    time_limit_seconds=math.inf,
    recovers_in_place=False,
    survivors_save=False,
)
"""One node whose job is requeued after each failure. Steps are short against everything else."""


@pytest.mark.parametrize("every", [200, 1000, 1400, 5000])
@pytest.mark.parametrize("mtbf", [3_000.0, 10_000.0, 200_000.0])
def test_with_checkpoints_and_requeues_alone_the_goodput_is_that_of_dalys_exact_formula(
    every: int, mtbf: float
) -> None:
    found = simulate(replace(RUN, every_steps=every, mtbf_seconds=mtbf), RANDOM)
    # Daly 2006, A higher order estimate of the optimum checkpoint interval, equation 20, for each segment
    segment = mtbf * math.exp(300 / mtbf) * math.expm1((every + 100) / mtbf)
    # The interval is one of 95 %, and twelve are checked. The first step of a start counts as starting.
    assert found.goodput == pytest.approx(every / segment, abs=2 * found.interval + 1 / mtbf)
    assert found.interval < 0.01


@pytest.mark.parametrize("restart", [3.0, 500.0, 8_000.0])
def test_if_survivors_save_only_restarts_cost_time(restart: float) -> None:
    run = replace(RUN, recovers_in_place=True, survivors_save=True, rank_failures=1.0, save_seconds=0.0)
    found = simulate(replace(run, in_place_seconds=restart, start_seconds=restart), RANDOM)
    # The last failure of a restart that nothing follows for `restart` seconds is the end of a Poisson gap.
    assert found.goodput == pytest.approx(
        math.exp(-restart / run.mtbf_seconds), abs=2 * found.interval + 2e-4
    )
    assert found.fractions[REDONE] == 0


@pytest.mark.parametrize("every", [200, 1400])
@pytest.mark.parametrize("mtbf", [3_000.0, 200_000.0])
def test_copies_for_neighbors_bound_the_steps_redone_as_checkpoints_do(every: int, mtbf: float) -> None:
    run = replace(RUN, recovers_in_place=True, survivors_save=True, rank_failures=1.0, every_steps=0)
    found = simulate(replace(run, copies_every=every, in_place_seconds=300.0, mtbf_seconds=mtbf), RANDOM)
    segment = mtbf * math.exp(300 / mtbf) * math.expm1((every + 100) / mtbf)  # as above, without a checkpoint
    assert found.goodput == pytest.approx(every / segment, abs=2 * found.interval + 1 / mtbf)
    assert found.fractions[REDONE] > 0


def test_without_failures_the_time_is_the_sum_of_its_parts() -> None:
    run = replace(
        RUN, mtbf_seconds=1e15, steps=2500, every_steps=1000, evaluation_seconds=0.5, write_seconds=7.0
    )
    found = simulate(run, FEW)
    # The first step belongs to the start. Two saves are during the run, and one at its end.
    whole = 300 + 2499 * 1.5 + 2 * 100 + 107
    assert found.elapsed_seconds == pytest.approx(whole)
    assert found.goodput == pytest.approx(2499 / whole)
    assert (found.interval, found.failures, found.requeues, found.stops) == (pytest.approx(0), 0, 0, 0)


def test_at_each_time_limit_the_job_saves_and_starts_again() -> None:
    run = replace(RUN, mtbf_seconds=1e15, steps=2500, every_steps=0, time_limit_seconds=1300.0)
    found = simulate(replace(run, queue_seconds=60.0), FEW)
    # 1001 steps, the first within the start, come into each of the two full jobs.
    assert found.requeues == 2
    assert found.elapsed_seconds == pytest.approx(3 * 300 + 2500 - 3 + 3 * 100 + 2 * 60)


@pytest.mark.parametrize("spares", [0, 1, 3])
def test_a_job_with_spares_is_requeued_once_all_of_them_are_used(spares: int) -> None:
    run = replace(RUN, nodes=1000, mtbf_seconds=1e8, rank_failures=0.0, recovers_in_place=True, spares=spares)
    found = simulate(run, RANDOM)
    assert found.failures / found.requeues == pytest.approx(spares + 1, rel=0.05)
    assert found.fractions[SPARE] == pytest.approx(spares / (1000 + spares))


def test_the_loss_of_the_first_node_ends_the_job_and_nobody_saves() -> None:
    run = replace(RUN, nodes=2, rank_failures=0.0, recovers_in_place=True, survivors_save=True, spares=1)
    found = simulate(run, RANDOM)
    # Three nodes are equally likely to fail first: the first one ends the job, the second one is replaced, and then or
    # if the spare is lost, any failure ends it. That makes 1, 2 and 1 failures for a requeue.
    assert found.requeues / found.failures == pytest.approx(3 / 4, rel=0.02)
    assert found.fractions[REDONE] > 0
    # Of a thousand nodes it is one of a thousand losses. The others are saved for, with and without a spare.
    many = simulate(replace(run, nodes=1000, mtbf_seconds=1e7, spares=0), RANDOM)
    assert many.requeues == pytest.approx(many.failures)
    assert many.fractions[REDONE] < 1e-3


def test_a_run_that_is_killed_again_and_again_at_one_checkpoint_stops_for_its_user() -> None:
    # One attempt in 400 reaches a checkpoint. Otherwise the second kill of a job finds that of the first one.
    run = replace(RUN, every_steps=60_000, rank_failures=1.0)
    found = simulate(run, RANDOM)
    assert found.stops / found.failures == pytest.approx(1 / 2, rel=0.02)
    # Inside of a job, three restarts in vain are allowed.
    found = simulate(replace(run, recovers_in_place=True), RANDOM)
    assert found.stops / found.failures == pytest.approx(1 / 4, rel=0.02)


def test_a_run_that_never_reaches_a_checkpoint_has_no_goodput_and_no_end() -> None:
    found = simulate(replace(RUN, every_steps=0), FEW)
    assert (found.goodput, found.interval, found.elapsed_seconds) == (0, 0, math.inf)
    assert found.fractions[REDONE] > 0.9


RUNS = st.builds(
    Assumptions,
    nodes=st.integers(1, 100),
    ranks_per_node=st.integers(1, 8),
    spares=st.integers(0, 3),
    mtbf_seconds=st.floats(1e4, 1e8),
    rank_failures=st.floats(0, 1),
    step_seconds=st.floats(0.01, 10),
    evaluation_seconds=st.floats(0, 1),
    every_steps=st.integers(0, 5000),
    save_seconds=st.floats(0, 10),
    write_seconds=st.floats(0, 100),
    in_place_seconds=st.floats(0, 50),
    start_seconds=st.floats(50, 500),
    queue_seconds=st.floats(0, 1000),
    detection_seconds=st.floats(0, 300),
    first_detection_seconds=st.floats(0, 300),
    release_seconds=st.floats(0, 10),
    steps=st.integers(1, 10**6),
    time_limit_seconds=st.floats(1000, 1e6) | st.just(math.inf),
    recovers_in_place=st.booleans(),
    survivors_save=st.booleans(),
    copies_every=st.just(0) | st.integers(1, 1000),
)


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_the_causes_add_up_to_the_allocated_time_and_none_is_negative(run: Assumptions) -> None:
    found = simulate(run, FEW)
    assert sum(found.fractions.values()) == pytest.approx(1)
    assert all(fraction >= -1e-9 for fraction in found.fractions.values())
    assert 0 <= found.goodput <= 1
    assert found.goodput == pytest.approx(found.fractions[USEFUL])
    assert found.interval >= 0
    assert found == simulate(run, FEW)


@settings(max_examples=40, deadline=None)
@given(RUNS, st.floats(2, 20))
def test_nodes_that_fail_more_often_never_raise_the_goodput(run: Assumptions, times: float) -> None:
    # A requeue renews spares and the time limit, so it is not always a loss beside them.
    run = replace(run, spares=0, time_limit_seconds=math.inf)
    often = simulate(replace(run, mtbf_seconds=run.mtbf_seconds / times), FEW)
    rarely = simulate(run, FEW)
    assert often.goodput <= rarely.goodput + 3 * (often.interval + rarely.interval) + 1e-6


@settings(max_examples=15, deadline=None)
@given(RUNS)
def test_one_more_spare_never_costs_the_training_nodes_time(run: Assumptions) -> None:
    # Only of long runs does the interval tell the luck.
    run = replace(run, steps=10**9, time_limit_seconds=math.inf, recovers_in_place=True)
    more = replace(run, spares=run.spares + 1)

    def lost(of: Assumptions) -> tuple[float, float]:
        found = simulate(of, FEW)
        training = 1 - found.fractions[SPARE]
        return (found.fractions[REDONE] + found.fractions[RESTARTING]) / training, found.interval / training

    (before, spread), (after, spread_after) = lost(run), lost(more)
    # The interval is that of the goodput, and tells no luck of a run that never gets on.
    assert after <= before + 3 * (spread + spread_after) + 1e-3
