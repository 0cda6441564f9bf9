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


SHRINKS = replace(
    RUN,
    nodes=4,
    every_steps=1,
    save_seconds=0.0,
    start_seconds=0.0,
    in_place_seconds=0.0,
    rank_failures=0.0,
    recovers_in_place=True,
    survivors_save=True,
)
"""Nothing but idle nodes costs time."""


@pytest.mark.parametrize("nodes", [2, 4, 7])
def test_a_run_that_shrinks_goes_on_until_it_loses_its_first_node(nodes: int) -> None:
    found = simulate(replace(SHRINKS, nodes=nodes, shrinks_to=tuple(range(1, nodes))), RANDOM)
    # Each number of nodes k is reached with probability k / nodes and lasts for MTBF / k: all last equally long.
    assert found.goodput == pytest.approx((nodes + 1) / (2 * nodes), abs=2 * found.interval + 1e-3)
    assert found.fractions[SPARE] == pytest.approx(1 - found.goodput, abs=1e-3)
    # Of the failures until the first node fails, one is a requeue.
    until = sum(k / nodes for k in range(1, nodes + 1))
    assert found.failures / found.requeues == pytest.approx(until, rel=0.03)


def test_a_run_goes_on_with_fewer_nodes_only_where_it_may() -> None:
    found = simulate(replace(SHRINKS, shrinks_to=(3,)), RANDOM)
    # Four nodes last for MTBF / 4, and three, which come after 3 of 4 losses, for MTBF / 3: equally long on average.
    assert found.goodput == pytest.approx(7 / 8, abs=2 * found.interval + 1e-3)
    never = simulate(replace(SHRINKS, shrinks_to=(2, 1)), RANDOM)
    assert never.requeues == pytest.approx(never.failures)
    assert never.fractions[SPARE] == 0


def test_steps_of_fewer_nodes_take_longer_in_proportion() -> None:
    alone = simulate(replace(SHRINKS, nodes=2, shrinks_to=(1,), evaluation_seconds=0.5), RANDOM)
    # Of equally long times on two nodes and on one, a run makes three quarters of the steps. Two thirds of the time of
    # a step are training.
    per_step = alone.elapsed_seconds / RUN.steps
    assert per_step == pytest.approx(1.5 / (3 / 4), rel=0.03)
    assert alone.goodput == pytest.approx(2 / 3 * 3 / 4, abs=2 * alone.interval + 1e-3)


def test_spares_take_the_places_of_lost_nodes_before_a_run_shrinks() -> None:
    run = replace(SHRINKS, nodes=2, spares=1, shrinks_to=(1,))
    found = simulate(run, RANDOM)
    # The states are (nodes, spares): (2, 1), (2, 0) and (1, 0). From the first one, a third of the failures each is of
    # the first node, of the other one and of the spare. They last for MTBF times 1/3, 1/2 and 1, and are reached with
    # probability 1, 2/3 and 1/3. So a cycle takes one MTBF, of which two thirds have two nodes.
    assert found.goodput == pytest.approx((2 * 2 / 3 + 1 / 3) / 3, abs=2 * found.interval + 1e-3)


def test_nodes_that_were_lost_come_back_at_the_time_limit() -> None:
    run = replace(SHRINKS, nodes=2, shrinks_to=(1,), time_limit_seconds=500.0)
    found = simulate(run, RANDOM)
    # Two nodes rarely lose one within the limit, and get it back at the limit.
    mtbf = run.mtbf_seconds
    one_left = (1 - math.exp(-500 / mtbf)) * math.exp(-500 / mtbf) / 2  # at the end of a job, to first order
    assert found.goodput == pytest.approx(1 - one_left / 2, abs=2 * found.interval + 5e-3)
    assert found.goodput > 0.95


def test_a_spare_has_no_ranks_that_could_fail() -> None:
    run = replace(SHRINKS, nodes=2, rank_failures=0.75, spares=1)
    found = simulate(run, RANDOM)
    # Per MTBF: 1.5 failures of ranks. A job ends by the loss of its first node, or by the second loss among the other
    # node and the spare, each 1/4 per MTBF. It lasts for 4/3 of MTBF, and after two of three first losses for 2 more.
    assert found.failures / found.requeues == pytest.approx(
        (1.5 * (4 / 3 + 2 / 3 * 2)) + 1 / 3 + 1 / 3 + 2 / 3, rel=0.04
    )


def test_ranks_that_are_lost_at_the_start_of_a_job_wait_for_the_rest_of_it() -> None:
    run = replace(RUN, recovers_in_place=True, survivors_save=True, rank_failures=1.0, mtbf_seconds=10_000.0)
    run = replace(run, every_steps=0, save_seconds=0.0, steps=10, in_place_seconds=0.0)
    found = simulate(replace(run, start_seconds=3000.0), RANDOM)
    assert found.elapsed_seconds == pytest.approx(3000 + 9, rel=1e-3)


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
    shrinks_to=st.just(()) | st.lists(st.integers(1, 99), unique=True).map(tuple),
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
