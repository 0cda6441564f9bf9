"""What SLURM does to jobs that run, and that a run ends bitwise as if nothing had happened."""

from submitted_runs import INTERVAL


def test_told_that_the_time_is_up_and_requeued_a_run_replays_nothing_and_ends_bitwise_the_same(
    jobs, straight
) -> None:
    job = jobs.submit("told", "--nodes", 2)
    time_is_up, requeue = ["scancel", "--signal=USR2", job], ["scontrol", "requeue", job]
    jobs.wait_for_processes("told", 2)
    jobs.cluster.run(*time_is_up)  # while the ranks start up
    steps = sorted(jobs.random_times.sample(range(1, 25), 4))
    for attempt, (step, disturb) in enumerate(zip(steps, [*[time_is_up] * 3, requeue], strict=True), start=2):
        jobs.wait_for_attempt("told", attempt)
        jobs.wait_for_step("told", job, step)
        jobs.cluster.run(*disturb)
    jobs.finish("told", job)
    ends = jobs.ledger("told", "end")
    assert [end["reason"] for end in ends] == [*["time is up"] * 4, "requeued", "finished"]
    resumed = [(r["replayed"], r["step"]) for r in jobs.ledger("told", "ready")]
    assert resumed == [(0, end.get("step", 0)) for end in ends[:5]]
    assert [(s["job"], s["restart"]) for s in jobs.ledger("told", "start")] == [(job, n) for n in range(6)]
    jobs.runs.assert_same("told", straight)


def test_a_cancelled_run_saves_stays_cancelled_and_resumes_on_one_machine_and_on_three(jobs) -> None:
    job = jobs.submit("cancelled", "--nodes", 2, "train.global_batch=66", "train.max_steps=50")
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
    assert [r["step"] for r in jobs.runs.metrics("cancelled")] == list(range(1, 51))


def test_preempted_with_grace_and_the_signal_a_run_goes_on_before_the_grace_is_over(jobs, straight) -> None:
    jobs.cluster.send_user_signal_on_preemption(True)
    job = jobs.submit("signalled", "--nodes", 2, "--partition", "low")
    jobs.wait_for_step("signalled", job, jobs.random_times.randrange(1, 10))
    jobs.preempt()
    assert jobs.wait_for_attempt("signalled", 2)["replayed"] == 0
    jobs.finish("signalled", job)
    jobs.runs.assert_same("signalled", straight)


def test_preempted_with_grace_alone_and_with_none_runs_go_on(jobs, straight) -> None:
    jobs.cluster.send_user_signal_on_preemption(False)
    queued = {
        partition: jobs.submit(partition, "--nodes", 2, "--partition", partition, "--slurm", "hold=true")
        for partition in ("low", "nograce")
    }
    for job in queued.values():  # together: a run must not end before the other one has begun
        jobs.cluster.run("scontrol", "release", job)
    for name, job in queued.items():
        jobs.wait_for_step(name, job, jobs.random_times.randrange(1, 5))
    jobs.preempt()
    for name, job in queued.items():
        ready = jobs.wait_for_attempt(name, 2, timeout=120)
        assert ready["replayed"] <= (0 if name == "low" else INTERVAL)
        jobs.finish(name, job)
        assert jobs.ledger(name, "end")[0]["reason"] in ("preempted", "requeued")
        jobs.runs.assert_same(name, straight)
