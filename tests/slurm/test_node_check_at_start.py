"""The check of a job's nodes before its ranks start, with nodes that are made bad for real."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from submitted_runs import SHORT, Jobs
from tiny_runs import Runs

from launch.node_check.rates import Rate
from launch.slurm.hostlist import expand_hostlist
from launch.slurm.start_check import RATES_SECONDS
from trainer.runs.end_reasons import EndReason

STEPS = "train.max_steps=12"
"""Nothing happens to these runs after their start."""
CHECKED = "slurm.check_nodes=true"
# The three nodes share the cores of this machine, so their rates differ at random.
TOLERANT = "slurm.check_tolerance=0.5"
QUOTA = 0.06
"""Fraction of a core that the check of a slow node has."""
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")


@pytest.fixture(scope="module")
def unchecked(runs: Runs) -> str:
    """Name of a run of two processes that no check preceded."""
    result = runs.train("unchecked", *SHORT, STEPS)
    assert result.code == 0, result.out
    return "unchecked"


@contextmanager
def slow(jobs: Jobs, process: str) -> Iterator[None]:
    """Let a process hardly run in this context. A control group throttles it.

    Args:
        jobs: the jobs of the cluster.
        process: number of the process, as the head machine sees it.
    """
    group = CPU_GROUPS / f"slow_node_{os.getpid()}"
    run = jobs.cluster.run
    run("mkdir", group)
    try:
        run("bash", "-c", f"echo 100000 >{group}/cpu.cfs_period_us")
        run("bash", "-c", f"echo {round(QUOTA * 100000)} >{group}/cpu.cfs_quota_us")
        run("bash", "-c", f"echo {process} >{group}/cgroup.procs")
        yield
    finally:
        for left in run("cat", group / "cgroup.procs").split():
            run("bash", "-c", f"echo {left} >{CPU_GROUPS}/cgroup.procs")
        run("rmdir", group)


def test_good_nodes_are_checked_once_and_the_run_is_that_of_an_unchecked_one(jobs, unchecked) -> None:
    job = jobs.submit("good_nodes", "--nodes", 2, "--spares", 1, STEPS, CHECKED, "slurm.check_tolerance=0.95")
    jobs.finish("good_nodes", job)
    (check,) = jobs.ledger("good_nodes", "node_check")
    print(f"the check of three nodes took {check['seconds']} s")
    assert (check["count"], check["bad"], check["swapped"], check["stopped"]) == (3, {}, {}, False)
    (status,) = jobs.status(jobs.runs.path("good_nodes").path)
    assert status["node_check"]["seconds"] == check["seconds"]
    assert status["suspects"] == []
    assert status["goodput"]["seconds"]["starting"] >= check["seconds"]
    jobs.runs.assert_same("good_nodes", unchecked)


def test_a_spare_takes_the_place_of_a_slow_node(jobs, unchecked) -> None:
    job = jobs.submit("slow_node", "--nodes", 2, "--spares", 1, STEPS, CHECKED, TOLERANT)
    process = jobs.check_of(job, 1)
    with slow(jobs, process):
        jobs.wait_for_attempt("slow_node", 1)
    first, bad, spare = jobs.nodes_of(job)
    jobs.finish("slow_node", job)
    (check,) = jobs.ledger("slow_node", "node_check")
    assert check["swapped"] == {bad: spare}
    assert list(check["bad"]) == [bad]
    assert any(f"{Rate.DECODE}: " in why and "below the median" in why for why in check["bad"][bad])
    (start,) = jobs.ledger("slow_node", "start")
    assert expand_hostlist(start["nodes"]) == [first, spare]
    (status,) = jobs.status(jobs.runs.path("slow_node").path)
    assert status["suspects"] == [bad]
    assert f"Node {spare} takes its place" in jobs.output("slow_node")
    jobs.runs.assert_same("slow_node", unchecked)


def test_a_slow_first_node_gives_its_rank_to_a_spare(jobs, unchecked) -> None:
    job = jobs.submit("slow_first", "--nodes", 2, "--spares", 1, STEPS, CHECKED, TOLERANT)
    process = jobs.check_of(job, 0)
    with slow(jobs, process):
        jobs.wait_for_attempt("slow_first", 1)
    bad, other, spare = jobs.nodes_of(job)
    jobs.finish("slow_first", job)
    (start,) = jobs.ledger("slow_first", "start")
    assert (sorted(expand_hostlist(start["nodes"])), start["host"]) == ([other, spare], spare)
    (check,) = jobs.ledger("slow_first", "node_check")
    assert check["swapped"] == {bad: spare}
    jobs.runs.assert_same("slow_first", unchecked)


def test_without_a_spare_a_slow_node_is_named_and_the_run_starts_on_it(jobs) -> None:
    job = jobs.submit("slow_alone", "--nodes", 3, "train.global_batch=66", STEPS, CHECKED, TOLERANT)
    process = jobs.check_of(job, 2)
    with slow(jobs, process):
        jobs.wait_for_attempt("slow_alone", 1)
    bad = jobs.nodes_of(job)[2]
    jobs.finish("slow_alone", job)
    (check,) = jobs.ledger("slow_alone", "node_check")
    assert (list(check["bad"]), check["swapped"]) == ([bad], {})
    assert "the run starts on it all the same" in jobs.output("slow_alone")
    (status,) = jobs.status(jobs.runs.path("slow_alone").path)
    assert status["suspects"] == [bad]
    said = jobs.all4one("status", jobs.runs.path("slow_alone").path).words
    assert f"{bad} was bad in the check before 1 of 1 attempts" in said
    resumed = jobs.all4one(
        "resume", jobs.runs.path("slow_alone").path, "--exclude-suspects", "--dry-run", STEPS
    )
    assert f"{bad} was bad in the check" in resumed.words


def test_a_node_that_cannot_read_the_set_is_replaced(jobs, unchecked) -> None:
    data = jobs.runs.digits / "train"
    jobs.cluster.on("node2", "mount", "-t", "tmpfs", "tmpfs", data)
    try:
        job = jobs.submit(
            "no_data", "--nodes", 2, "--spares", 1, STEPS, CHECKED, "slurm.check_tolerance=0.95"
        )
        jobs.finish("no_data", job)
        nodes = jobs.nodes_of(job)
    finally:
        jobs.cluster.on("node2", "umount", data)
    assert nodes[1] == "node2"
    (check,) = jobs.ledger("no_data", "node_check")
    assert check["swapped"] == {"node2": "node3"}
    assert any(why.startswith(f"{Rate.READ}: there is no shard here") for why in check["bad"]["node2"])
    jobs.runs.assert_same("no_data", unchecked)


def test_a_check_that_stands_still_is_given_up_and_its_node_replaced(jobs, unchecked) -> None:
    job = jobs.submit("still", "--nodes", 2, "--spares", 1, STEPS, CHECKED, "slurm.check_tolerance=0.95")
    process = jobs.check_of(job, 1)
    jobs.cluster.run("kill", f"-{signal.SIGSTOP}", process)
    jobs.wait_for_attempt("still", 1)
    assert not jobs.cluster.run("ps", "--no-headers", process, check=False)
    _, bad, spare = jobs.nodes_of(job)
    jobs.finish("still", job)
    (check,) = jobs.ledger("still", "node_check")
    assert check["swapped"] == {bad: spare}
    assert check["bad"] == {bad: [f"check: no answer within {RATES_SECONDS:.0f} s"]}
    jobs.runs.assert_same("still", unchecked)


def test_the_signal_before_the_time_limit_ends_a_check_and_the_next_start_checks_again(
    jobs, unchecked
) -> None:
    job = jobs.submit("told_early", "--nodes", 2, STEPS, CHECKED, "slurm.check_tolerance=0.95")
    process = jobs.check_of(job, 1)
    jobs.cluster.run("kill", f"-{signal.SIGSTOP}", process)  # so that the check lasts
    jobs.cluster.run("scancel", "--signal=USR2", job)
    jobs.finish("told_early", job)
    assert jobs.ledger("told_early", "end")[0]["reason"] == EndReason.TIME_IS_UP
    assert [start["restart"] for start in jobs.ledger("told_early", "start")] == [0, 1]
    stopped, whole = jobs.ledger("told_early", "node_check")
    assert (stopped["stopped"], whole["stopped"]) == (True, False)
    assert stopped["seconds"] < RATES_SECONDS
    assert [stopped["attempt"], whole["attempt"]] == [1, 2]
    jobs.runs.assert_same("told_early", unchecked)


def test_scancel_ends_a_check(jobs) -> None:
    job = jobs.submit("canceled_early", "--nodes", 2, STEPS, CHECKED, "slurm.check_tolerance=0.95")
    process = jobs.check_of(job, 1)
    jobs.cluster.run("kill", f"-{signal.SIGSTOP}", process)
    jobs.cluster.run("scancel", job)
    jobs.cluster.wait_for_state(job, "CANCELLED", timeout=60)
    jobs.cluster.until(
        lambda: not jobs.cluster.run("ps", "--no-headers", process, check=False), 60, "it lives on"
    )
    (check,) = jobs.ledger("canceled_early", "node_check")
    assert check["stopped"]
    (end,) = jobs.ledger("canceled_early", "end")
    assert end["reason"] == EndReason.CANCELLED


def test_without_a_spare_a_run_whose_node_cannot_read_the_set_tells_why_by_itself(jobs) -> None:
    data = jobs.runs.digits / "train"
    jobs.cluster.on("node2", "mount", "-t", "tmpfs", "tmpfs", data)
    try:
        job = jobs.submit("data_alone", "--nodes", 2, STEPS, CHECKED, "slurm.check_tolerance=0.95")
        jobs.cluster.wait_for_state(job, "FAILED", timeout=120)
    finally:
        jobs.cluster.on("node2", "umount", data)
    (check,) = jobs.ledger("data_alone", "node_check")
    assert (list(check["bad"]), check["swapped"]) == (["node2"], {})
    assert str(data) in jobs.output("data_alone")
    (status,) = jobs.status(jobs.runs.path("data_alone").path)
    assert status["suspects"] == ["node2"]


def test_a_node_that_loses_power_during_a_check_gives_its_place_to_a_spare(jobs, unchecked) -> None:
    job = jobs.submit("dark", "--nodes", 2, "--spares", 1, STEPS, CHECKED, "slurm.check_tolerance=0.95")
    jobs.check_of(job, 1)
    first, lost, spare = jobs.nodes_of(job)
    jobs.cluster.cut_power(lost)
    jobs.finish("dark", job)
    (check,) = jobs.ledger("dark", "node_check")
    assert (check["bad"], check["swapped"]) == ({}, {lost: spare})
    (start,) = jobs.ledger("dark", "start")
    assert expand_hostlist(start["nodes"]) == [first, spare]
    jobs.runs.assert_same("dark", unchecked)
