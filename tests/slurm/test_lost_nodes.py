"""Nodes that die in a job with spares, and in one that has none left."""

import signal
import time

from submitted_runs import BRIEF, INTERVAL, SHORT

from launch.slurm.hostlist import expand_hostlist
from trainer.runs.end_reasons import EndReason
from trainer.runs.saved_progress import OF_COPIES

SHARDED = ("parallel.zero_stage=1", "checkpoint.replicate_every=4", "checkpoint.every_steps=100", BRIEF)
"""A checkpoint comes only from the copies that neighbors keep."""
NO_LOSS_BY_RANK = ("method.transformer_dropout=0", "parallel.batch_norm=global")


def test_a_spare_takes_the_place_of_a_node_without_power_and_the_job_does_not_start_again(
    jobs, brief
) -> None:
    job = jobs.submit("spare", "--nodes", 2, "--spares", 1, BRIEF)
    jobs.wait_for_step("spare", job, 12)
    _, lost, spare = jobs.nodes_of(job)
    cut = time.time()
    jobs.cluster.cut_power(lost)
    ready = jobs.wait_for_attempt("spare", 2)
    stepped = jobs.cluster.until(
        lambda: [r for r in jobs.ledger("spare", "stepped") if r["attempt"] == 2], 60, "no step"
    )
    print(f"the next step is done {stepped[0]['time'] - cut:.2f} s after the power cut")
    assert ready["replayed"] == 0
    end = next(r for r in jobs.ledger("spare", "end") if r["reason"] == EndReason.KILLED)
    assert f"on {lost} was lost with its node" in end["message"]
    jobs.finish("spare", job)
    starts = jobs.ledger("spare", "start")
    assert [spare in expand_hostlist(start["nodes"]) for start in starts] == [False, True]
    assert [lost in expand_hostlist(start["nodes"]) for start in starts] == [True, False]
    assert {start["restart"] for start in starts} == {0}
    jobs.runs.assert_same("spare", brief)


def test_a_node_that_is_lost_with_its_shards_costs_the_steps_since_the_last_copies(jobs) -> None:
    straight_of_shards = "straight_of_shards"
    result = jobs.runs.train(straight_of_shards, *SHORT, *SHARDED)
    assert result.code == 0, result.out
    job = jobs.submit("spare_of_shards", "--nodes", 2, "--spares", 1, *SHARDED)
    jobs.wait_for_step("spare_of_shards", job, 13)
    _, lost, _ = jobs.nodes_of(job)
    jobs.cluster.cut_power(lost)
    ready = jobs.wait_for_attempt("spare_of_shards", 2)
    assert ready["step"] >= 12
    assert ready["step"] % 4 == 0
    assert 0 <= ready["replayed"] <= 4
    (survived,) = jobs.ledger("spare_of_shards", "survived")
    assert (survived["step"], survived["rank"], survived["source"]) == (ready["step"], 0, OF_COPIES)
    jobs.finish("spare_of_shards", job)
    assert [start["restart"] for start in jobs.ledger("spare_of_shards", "start")] == [0, 0]
    jobs.runs.assert_same("spare_of_shards", straight_of_shards)


def test_two_ranks_of_a_lost_node_are_restored_by_those_of_the_other_one(jobs) -> None:
    job = jobs.submit(
        "shrinks_with_shards",
        *("--nodes", 2, "--tasks-per-node", 2, *NO_LOSS_BY_RANK, *SHARDED),
    )
    jobs.wait_for_step("shrinks_with_shards", job, 13)
    jobs.cluster.run("kill", f"-{signal.SIGKILL}", jobs.agent_of(job, 1))
    ready = jobs.wait_for_attempt("shrinks_with_shards", 2)
    assert ready["step"] >= 12
    assert 0 <= ready["replayed"] <= 4
    assert [r["source"] for r in jobs.ledger("shrinks_with_shards", "survived")] == [OF_COPIES]
    jobs.finish("shrinks_with_shards", job)
    starts = jobs.ledger("shrinks_with_shards", "start")
    assert [(start["world_size"], start["restart"]) for start in starts] == [(4, 0), (2, 0)]
    assert [r["step"] for r in jobs.runs.metrics("shrinks_with_shards")] == list(range(1, 25))


def test_a_run_without_a_spare_goes_on_with_the_nodes_that_are_left(jobs) -> None:
    job = jobs.submit("shrinks", "--nodes", 2, *NO_LOSS_BY_RANK, BRIEF)
    jobs.wait_for_step("shrinks", job, 12)
    jobs.cluster.run("kill", f"-{signal.SIGKILL}", jobs.agent_of(job, 1))
    ready = jobs.wait_for_attempt("shrinks", 2)
    assert ready["replayed"] == 0
    jobs.finish("shrinks", job)
    starts = jobs.ledger("shrinks", "start")
    assert [(start["world_size"], start["restart"]) for start in starts] == [(2, 0), (1, 0)]
    assert [r["step"] for r in jobs.runs.metrics("shrinks")] == list(range(1, 25))


def test_a_node_that_is_cut_off_is_replaced_and_its_ranks_end(jobs, brief) -> None:
    job = jobs.submit("cut_spare", "--nodes", 2, "--spares", 1, BRIEF)
    jobs.wait_for_step("cut_spare", job, 12)
    _, lost, _ = jobs.nodes_of(job)
    rank, agent = jobs.process_of(job, 1), jobs.agent_of(job, 1)
    jobs.cluster.pull_cable(lost)
    ready = jobs.wait_for_attempt("cut_spare", 2)
    assert 0 <= ready["replayed"] <= INTERVAL
    for process in (rank, agent):
        jobs.cluster.until(
            lambda p=process: not jobs.cluster.run("ps", "--no-headers", p, check=False), 60, "it lives on"
        )
    jobs.finish("cut_spare", job)
    jobs.runs.assert_same("cut_spare", brief)
