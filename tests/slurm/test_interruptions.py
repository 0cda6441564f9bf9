"""What SLURM does to jobs that run, and that a run ends bitwise as if nothing had happened."""

import pytest


def test_told_three_times_that_the_time_is_up_a_run_replays_nothing_and_ends_bitwise_the_same(
    jobs, straight
) -> None:
    job = jobs.submit("told", "--nodes", 2)
    for attempt, step in enumerate(sorted(jobs.moments.sample(range(1, 45), 3)), start=1):
        jobs.wait_for_attempt("told", attempt)
        jobs.wait_for_step("told", job, step)
        jobs.cluster.run("scancel", "--signal=USR2", job)
    jobs.finish("told", job)
    ends = jobs.ledger("told", "end")
    assert [end["reason"] for end in ends] == ["time is up"] * 3 + ["finished"]
    assert [(r["replayed"], r["step"]) for r in jobs.ledger("told", "ready")[1:]] == [
        (0, e["step"]) for e in ends[:3]
    ]
    assert [(s["job"], s["restart"]) for s in jobs.ledger("told", "start")] == [(job, n) for n in range(4)]
    jobs.runs.assert_same("told", straight)


def test_a_cancelled_run_saves_stays_cancelled_and_resumes_on_one_machine_and_on_three(
    jobs, straight
) -> None:
    job = jobs.submit("cancelled", "--nodes", 2, "train.global_batch=66")
    jobs.wait_for_step("cancelled", job, 5)
    said = jobs.all4one("cancel", jobs.runs.path("cancelled").path)
    assert "all4one resume" in said.words
    assert (
        jobs.cluster.wait_for_state(job, "CANCELLED", "PENDING", "COMPLETED", "FAILED")["JobState"]
        == "CANCELLED"
    )
    end = jobs.ledger("cancelled", "end")[-1]
    assert end["reason"] == "cancelled"
    for nodes in (1, 3):
        at = jobs.resume("cancelled", "--nodes", nodes)
        ready = jobs.wait_for_attempt("cancelled", 2 if nodes == 1 else 3)
        assert (ready["step"], ready["replayed"]) == (end["step"], 0)
        if nodes == 1:
            jobs.wait_for_step("cancelled", at, end["step"] + 3)
            jobs.all4one("cancel", jobs.runs.path("cancelled").path)
            jobs.cluster.wait_for_state(at, "CANCELLED")
            end = jobs.ledger("cancelled", "end")[-1]
    jobs.finish("cancelled", at)
    assert [s["world_size"] for s in jobs.ledger("cancelled", "start")] == [2, 1, 3]
    assert [r["step"] for r in jobs.runs.metrics("cancelled")] == list(range(1, 61))


def test_a_requeue_from_outside_loses_nothing(jobs, straight) -> None:
    job = jobs.submit("requeued", "--nodes", 2)
    jobs.wait_for_step("requeued", job, jobs.moments.randrange(1, 40))
    jobs.cluster.run("scontrol", "requeue", job)
    ready = jobs.wait_for_attempt("requeued", 2)
    assert ready["replayed"] == 0
    jobs.finish("requeued", job)
    jobs.runs.assert_same("requeued", straight)


@pytest.mark.parametrize(
    ("partition", "user_signal", "interval"),
    [("low", True, 0), ("low", False, 0), ("nograce", False, 10)],
    ids=["grace and user signal", "grace", "none"],
)
def test_a_preempted_run_goes_on(jobs, straight, partition: str, user_signal: bool, interval: int) -> None:
    jobs.cluster.send_user_signal_on_preemption(user_signal)
    name = f"preempted_{partition}_{user_signal}"
    job = jobs.submit(name, "--nodes", 2, "--partition", partition)
    jobs.wait_for_step(name, job, jobs.moments.randrange(1, 40))
    jobs.cluster.run(
        "sbatch", "--partition=high", "--nodes=3", "--ntasks-per-node=4", "--output=/dev/null", "--wrap=true"
    )
    ready = jobs.wait_for_attempt(name, 2)
    assert ready["replayed"] <= interval
    jobs.finish(name, job)
    jobs.runs.assert_same(name, straight)
