"""Jobs whose agents start ranks again inside of the job."""

import signal
import time

from slurm_cluster import NODES
from submitted_runs import SHORT

from trainer.runs.end_reasons import EndReason


def test_killed_ranks_of_any_node_cost_no_step_and_the_job_does_not_start_again(jobs) -> None:
    straight_of_four = "straight_of_four"
    steps = "train.max_steps=32"
    result = jobs.runs.train(straight_of_four, *SHORT, steps, nproc=4)
    assert result.code == 0, result.out
    job = jobs.submit("in_place", "--nodes", 2, "--tasks-per-node", 2, steps)
    for attempt, (step, rank) in enumerate([(12, 2), (22, 0)], start=1):
        jobs.wait_for_attempt("in_place", attempt)
        jobs.wait_for_step("in_place", job, step)
        killed = time.time()
        jobs.kill_rank(job, rank, signal.SIGKILL)
        ready = jobs.wait_for_attempt("in_place", attempt + 1)
        stepped = jobs.cluster.until(
            lambda n=attempt + 1: [r for r in jobs.ledger("in_place", "stepped") if r["attempt"] == n],
            60,
            "no step",
        )
        print(f"the next step is done {stepped[0]['time'] - killed:.2f} s after the kill")
        assert ready["replayed"] == 0
        end = next(r for r in jobs.ledger("in_place", "end") if r["reason"] == EndReason.KILLED)
        assert "was ended by SIGKILL" in end["message"]
    jobs.finish("in_place", job)
    assert {r["restart"] for r in jobs.ledger("in_place", "start")} == {0}
    assert len(jobs.ledger("in_place", "survived")) == 2
    jobs.runs.assert_same("in_place", straight_of_four)


def test_a_time_limit_is_survived_and_a_dead_agent_starts_the_job_again(jobs, straight) -> None:
    job = jobs.submit("agents", "--nodes", 2, "slurm.shrink=false")
    jobs.wait_for_step("agents", job, 12)
    jobs.cluster.run("scancel", "--signal=USR2", job)  # as before the time limit
    jobs.wait_for_attempt("agents", 2)
    assert jobs.ledger("agents", "end")[0]["reason"] == EndReason.TIME_IS_UP
    jobs.wait_for_step("agents", job, 22)
    jobs.cluster.run("kill", f"-{signal.SIGKILL}", jobs.agent_of(job, 1))
    jobs.wait_for_attempt("agents", 3)
    jobs.finish("agents", job)
    assert [r["restart"] for r in jobs.ledger("agents", "start")] == [0, 1, 2]
    jobs.runs.assert_same("agents", straight)


def test_a_canceled_job_saves_and_its_run_resumes_without_waiting_for_a_spare(jobs, straight) -> None:
    job = jobs.submit("stopped", "--nodes", 2, "--spares", 1)
    jobs.wait_for_step("stopped", job, 12)
    (start,) = jobs.ledger("stopped", "start")
    assert start["spare_devices"] == 1
    assert jobs.all4one("cancel", jobs.runs.path("stopped").path).code == 0
    jobs.cluster.wait_for_state(job, "CANCELLED", timeout=60)
    (end,) = jobs.ledger("stopped", "end")
    assert end["reason"] == EndReason.CANCELLED
    with jobs.cluster.drained(NODES[2]):
        jobs.finish("stopped", jobs.resume("stopped"))
    assert jobs.ledger("stopped", "start")[-1]["spare_devices"] == 0
    assert "SLURM had 0 of 1 spare nodes" in jobs.output("stopped")
    jobs.runs.assert_same("stopped", straight)
