"""Chains of jobs, for clusters that forbid requeues."""

from trainer.runs.records import read_records


def chain_of(jobs, name: str) -> list[str]:
    return read_records(jobs.runs.path(name).path / "slurm" / "jobs.jsonl")[-1]["chain"]


def test_the_next_job_goes_on_and_what_is_left_is_cancelled_at_the_end(jobs, straight) -> None:
    first = jobs.submit("chain", "--nodes", 2, "--chain", 3)
    chain = chain_of(jobs, "chain")
    assert chain[0] == first
    assert jobs.cluster.job(first)["Requeue"] == "0"
    jobs.wait_for_step("chain", first, jobs.random_times.randrange(1, 20))
    assert jobs.status(jobs.runs.path("chain").path)[0]["state"] == "running"
    jobs.cluster.run("scancel", "--signal=USR2", first)
    jobs.wait_for_attempt("chain", 2)
    assert jobs.status(jobs.runs.path("chain").path)[0]["job"] == chain[1]
    jobs.finish("chain", chain[1])
    jobs.cluster.wait_for_state(chain[2], "CANCELLED")
    assert [end["reason"] for end in jobs.ledger("chain", "end")] == ["time is up", "finished"]
    assert jobs.ledger("chain", "ready")[-1]["replayed"] == 0
    assert [start["job"] for start in jobs.ledger("chain", "start")] == chain[:2]
    jobs.runs.assert_same("chain", straight)


def test_a_run_that_fails_by_itself_ends_its_chain(jobs) -> None:
    jobs.submit("fails", "--chain", 2, "optim.name=sgd", "optim.lr=1e30", "optim.warmup_epochs=0")
    first, second = chain_of(jobs, "fails")
    jobs.cluster.wait_for_state(first, "FAILED", timeout=60)
    jobs.cluster.wait_for_state(second, "CANCELLED")
    (end,) = jobs.ledger("fails", "end")
    assert "has loss" in end["message"]


def test_cancel_ends_all_jobs_of_a_chain(jobs) -> None:
    jobs.submit("called_off", "--chain", 3, "--slurm", "hold=true")
    chain = chain_of(jobs, "called_off")
    again = jobs.all4one("resume", jobs.runs.path("called_off").path)
    assert again.code == 2
    assert f"job {chain[0]} of this run is pending" in again.words
    assert jobs.all4one("cancel", jobs.runs.path("called_off").path).code == 0
    assert {jobs.cluster.job(number)["JobState"] for number in chain} == {"CANCELLED"}
