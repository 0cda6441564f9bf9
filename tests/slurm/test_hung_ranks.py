"""A rank of a job that hangs is named with its node and ended, and the job goes on without a restart."""

import signal

LEAST = 10


def test_a_rank_that_stands_still_is_named_with_its_node_and_costs_no_step(jobs, straight) -> None:
    job = jobs.submit("hangs", "--nodes", 2, f"guard.hang_seconds={LEAST}")
    jobs.wait_for_step("hangs", job, 25)  # the agents hear once a second how long a step takes
    nodes = jobs.nodes_of(job)
    jobs.kill_rank(job, 1, signal.SIGSTOP)
    ready = jobs.wait_for_attempt("hangs", 2)
    assert ready["replayed"] == 0
    (end,) = [r for r in jobs.ledger("hangs", "end") if r["reason"] == "stalled"]
    assert end["message"].startswith(f"rank 1 on {nodes[1]} hangs: no step for ")
    assert "most recent call first" in jobs.runs.path("hangs").stall_dump(1, 0).read_text()
    jobs.finish("hangs", job)
    assert {r["restart"] for r in jobs.ledger("hangs", "start")} == {0}
    jobs.runs.assert_same("hangs", straight)
