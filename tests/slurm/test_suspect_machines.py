"""A machine on which processes are killed again and again is named, and left out by the next job."""

import json
import re
import signal


def test_a_machine_that_fails_twice_is_named_and_left_out_on_resume(jobs) -> None:
    job = jobs.submit("suspect", "--nodes", 2, "train.max_steps=60")
    folder, bad = jobs.runs.path("suspect").path, ""
    for attempt, step in enumerate((12, 22), start=1):
        jobs.wait_for_attempt("suspect", attempt)
        jobs.wait_for_step("suspect", job, step)
        nodes = jobs.nodes_of(job)
        bad = bad or nodes[1]
        jobs.kill_rank(job, nodes.index(bad), signal.SIGKILL)
    jobs.wait_for_attempt("suspect", 3)
    assert jobs.all4one("cancel", folder).code == 0
    jobs.cluster.wait_for_state(job, "CANCELLED")
    (found,) = json.loads(jobs.all4one("status", folder, "--json").out)["runs"]
    assert found["suspects"] == [bad]
    assert [one["reason"] for one in found["history"]] == ["killed", "killed", "cancelled"]
    assert [one["replayed"] for one in found["history"]][1:] == [one["lost"] for one in found["history"]][:2]
    assert found["lost_steps"] == sum(one["lost"] for one in found["history"])
    assert all(found["hours"][kind] > 0 for kind in ("useful", "starting"))
    said = jobs.all4one("status", folder).words
    assert f"{bad} was in 2 of 2 failed attempts" in said
    beside = jobs.all4one(
        "submit",
        *jobs.runs.common,
        "run.name=beside",
        "--exclude",
        "node9",
        "--exclude-suspects",
        "--dry-run",
        "--no-preflight",
    )
    (left_out,) = re.findall(r"^#SBATCH --exclude=(.*)$", beside.out, re.M)
    # runs of other tests in the folder may have suspects of their own
    assert {"node9", bad} <= set(left_out.split(",")), beside.out
    resumed = jobs.resume("suspect", "--exclude-suspects")
    jobs.wait_for_attempt("suspect", 4)
    assert bad not in jobs.nodes_of(resumed)
    jobs.finish("suspect", resumed)
