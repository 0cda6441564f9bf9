"""Machines that die and ranks that fail: a run goes on where it can, and says why where it cannot."""

import itertools
import signal
from pathlib import Path

import pytest
from submitted_runs import BRIEF, INTERVAL, SHORT

GROWS = """
import os, pathlib, threading, time
def grow(hungry=pathlib.Path("{hungry}")):
    while not hungry.exists():
        time.sleep(0.1)
    hungry.unlink()
    grown = b"x" * (2 << 30)
    time.sleep(60)
if os.environ.get("SLURM_PROCID") == "1" and "SLURM_STEP_ID" in os.environ:
    threading.Thread(target=grow, daemon=True).start()
"""
"""What Python runs at its start in every process of a job: rank 1 grows by 2 GiB once a file is there."""


def test_a_run_goes_on_after_a_power_cut_of_a_worker_and_of_its_first_machine(jobs, straight) -> None:
    job = jobs.submit("power", "--nodes", 2, "slurm.shrink=false")
    for attempt, (step, position) in enumerate([(12, 1), (22, 0)], start=1):
        jobs.wait_for_attempt("power", attempt)
        jobs.wait_for_step("power", job, step)
        nodes = jobs.nodes_of(job)
        jobs.cluster.cut_power(nodes[position])
        ready = jobs.wait_for_attempt("power", attempt + 1, timeout=120)
        assert 0 <= ready["replayed"] <= INTERVAL
        jobs.cluster.power_on(nodes[position])
    jobs.finish("power", job)
    jobs.runs.assert_same("power", straight)
    (found,) = jobs.status(jobs.runs.path("power").path)
    seconds = found["goodput"]["seconds"]
    assert 0 < found["goodput"]["fraction"] < 1, seconds
    assert sum(seconds.values()) == pytest.approx(found["goodput"]["elapsed_seconds"])
    starts, ends = jobs.ledger("power", "start"), jobs.ledger("power", "end")
    noticed = 0.0
    for before, start in itertools.pairwise(starts):
        assert before["time"] < start["last_recorded"]
        assert start["submitted"] <= start["allocated"] < start["time"]
        end = max(r["time"] for r in ends if r["attempt"] == before["attempt"])
        noticed += max(end, start["submitted"]) - start["last_recorded"]
    assert seconds["dead"] == pytest.approx(noticed, abs=3)
    assert seconds["unknown"] == seconds["idle"] == 0


def test_a_rank_that_is_killed_ends_the_others_and_the_job_starts_again(jobs, brief) -> None:
    job = jobs.submit("killed", "--nodes", 2, "slurm.recovery=requeue", BRIEF)
    jobs.wait_for_step("killed", job, 12)
    jobs.kill_rank(job, 1, signal.SIGKILL)
    jobs.wait_for_attempt("killed", 2)
    end = next(r for r in jobs.ledger("killed", "end") if r["reason"] == "killed")
    assert "task 1: Killed" in end["message"]
    jobs.finish("killed", job)
    jobs.runs.assert_same("killed", brief)
    (found,) = jobs.status(jobs.runs.path("killed").path)
    seconds = found["goodput"]["seconds"]
    assert 0 < found["goodput"]["fraction"] < 1, seconds
    assert min(seconds[cause] for cause in ("useful", "starting", "dead", "queued")) > 0, seconds
    assert seconds["unknown"] == seconds["idle"] == 0


def test_a_rank_whose_memory_runs_out_is_killed_and_the_job_starts_again(
    jobs, straight, tmp_path: Path
) -> None:
    hungry = tmp_path / "hungry"
    (tmp_path / "sitecustomize.py").write_text(GROWS.format(hungry=hungry))
    job = jobs.submit("memory", "--nodes", 2, "--mem", "1800M", "--setup", f"export PYTHONPATH={tmp_path}")
    jobs.wait_for_step("memory", job, 12)
    hungry.touch()
    jobs.cluster.until(lambda: not hungry.exists(), 10, "the rank does not grow")
    jobs.wait_for_attempt("memory", 2)
    end = next(end for end in jobs.ledger("memory", "end") if end["reason"] == "killed")
    assert "memory ran out" in end["message"]
    assert "--mem" in end["message"]
    jobs.finish("memory", job)
    jobs.runs.assert_same("memory", straight)


def test_a_rank_that_raises_ends_the_job_and_the_reason_is_said(jobs) -> None:
    job = jobs.submit("raises", "--nodes", 2, "optim.name=sgd", "optim.lr=1e30", "optim.warmup_epochs=0")
    jobs.cluster.wait_for_state(job, "FAILED", timeout=60)
    end = jobs.ledger("raises", "end")[-1]
    assert end["reason"] == "error"
    assert "has loss" in end["message"]
    status = jobs.all4one("status", jobs.runs.path("raises").path)
    assert "error" in status.words
    assert "has loss" in status.words


def test_a_job_that_has_used_up_its_requeues_saves_and_says_how_to_go_on(jobs) -> None:
    job = jobs.submit("used_up", "--nodes", 1, "slurm.max_requeues=0")
    jobs.wait_for_step("used_up", job, 1)
    jobs.cluster.run("scancel", "--signal=USR2", job)
    jobs.cluster.wait_for_state(job, "FAILED")
    (end,) = jobs.ledger("used_up", "end")
    assert jobs.runs.path("used_up").checkpoints.joinpath(f"step_{end['step']:08d}").is_dir()
    assert "all4one resume" in jobs.all4one("logs", jobs.runs.path("used_up").path).words


def test_a_rank_on_a_machine_that_is_cut_off_cannot_write_into_the_run_any_more(jobs) -> None:
    # The agent must not take the rank that stands still for one that hangs, however late the next attempt is.
    job = jobs.submit("cut_off", "--nodes", 1, "guard.hang_seconds=0", BRIEF)
    jobs.wait_for_step("cut_off", job, 12)
    (node,) = jobs.nodes_of(job)
    process = jobs.process_of(job, 0)
    jobs.cluster.run("kill", "-STOP", process)  # its steps shall fall into the time of the next attempt
    jobs.cluster.pull_cable(node)
    ready = jobs.wait_for_attempt("cut_off", 2, timeout=120)
    assert ready["replayed"] <= INTERVAL
    jobs.cluster.run("kill", "-CONT", process)
    jobs.finish("cut_off", job)
    jobs.cluster.until(
        lambda: not jobs.cluster.run("ps", "--no-headers", process, check=False), 30, "it lives on"
    )
    (first,) = (end for end in jobs.ledger("cut_off", "end") if end["attempt"] == 1)
    assert "taken over this run" in first["message"]
    assert jobs.runs.train("alone", *SHORT, BRIEF, nproc=1).code == 0
    jobs.runs.assert_same("cut_off", "alone")
