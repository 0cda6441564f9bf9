"""A rank that hangs does not hold the machines until the time limit."""

import signal

from submitted_runs import BRIEF, INTERVAL

STALL_SECONDS = 20  # joining and opening must fit in it too, on a busy machine


def test_where_a_rank_stands_still_the_others_say_so_and_the_job_starts_again(jobs, brief) -> None:
    job = jobs.submit("stands", "--nodes", 2, f"guard.stall_seconds={STALL_SECONDS}", BRIEF)
    jobs.wait_for_step("stands", job, 12)
    jobs.kill_rank(job, 1, signal.SIGSTOP)
    ready = jobs.wait_for_attempt("stands", 2, timeout=STALL_SECONDS + 120)
    assert 0 <= ready["replayed"] <= INTERVAL
    (end,) = jobs.ledger("stands", "end")
    assert end["reason"] == "stalled"
    told = end["message"].split("; ")
    # it cannot say anything itself, unless SLURM lets it go on for a moment before it kills it
    assert any("rank 1: gave no sign" in said or "rank 1: was suspended" in said for said in told)
    assert any("rank 0 on node" in said for said in told)
    assert "most recent call first" in jobs.runs.path("stands").stall_dump(1, 0).read_text()
    jobs.finish("stands", job)
    jobs.runs.assert_same("stands", brief)
