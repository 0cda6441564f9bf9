"""Runs that are submitted inside of a job, whose environment must not reach them, and jobs without any environment."""

import shlex

from commands import all4one
from submitted_runs import SHORT


def test_a_run_that_an_array_task_submits_is_a_job_of_its_own(jobs, tmp_path) -> None:
    submit = all4one(
        "submit",
        *jobs.runs.common,
        *SHORT,
        "train.max_steps=20",
        "run.name=inner",
        "--cpus-per-task",
        1,
        "--time",
        "2h",
    )
    shell = ("SBATCH_TIMELIMIT=1", "SBATCH_NO_REQUEUE=1", "SBATCH_PARTITION=nowhere", "SLURM_RESTART_COUNT=9")
    script = tmp_path / "outer.sh"
    script.write_text(f"#!/bin/bash\nexport {' '.join(shell)}\nexec {shlex.join(submit)} --partition main\n")
    log = tmp_path / "outer.log"
    outer = jobs.cluster.run("sbatch", "--parsable", "--array=3", f"--output={log}", script).strip()
    jobs.cluster.wait_for_state(f"{outer}_3", "COMPLETED", "FAILED", timeout=120)
    said = log.read_text()
    assert "run folder:" in said, said
    inner = jobs.newest_job("inner")
    facts = jobs.cluster.job(inner)
    assert (facts["TimeLimit"], facts["Requeue"], facts["Partition"]) == ("02:00:00", "1", "main")
    jobs.wait_for_step("inner", inner, 3)
    jobs.cluster.run("scancel", "--signal=USR2", inner)  # the time limit: a restart must still be allowed
    jobs.finish("inner", inner)
    assert [end["reason"] for end in jobs.ledger("inner", "end")] == ["time is up", "finished"]
    assert [start["restart"] for start in jobs.ledger("inner", "start")] == [0, 1]


def test_a_job_without_the_environment_of_its_user_trains(jobs) -> None:
    job = jobs.submit("no_export", "train.max_steps=12", "--slurm", "export=NONE")
    jobs.finish("no_export", job)
    assert [end["reason"] for end in jobs.ledger("no_export", "end")] == ["finished"]


def test_all_runs_of_a_sweep_are_cancelled_by_their_folder_and_save(jobs) -> None:
    result = jobs.all4one(
        "submit",
        *jobs.runs.common,
        *SHORT,
        "train.max_steps=2000",
        "run.name=swept",
        "--cpus-per-task",
        1,
        "--sweep",
        "run.seed=0,1,2",
        "--array-parallelism",
        2,
    )
    assert result.code == 0, result.out
    folder = jobs.runs.path("swept").path
    runs = [f"swept/seed={seed}" for seed in range(3)]
    for run in runs[:2]:
        jobs.wait_for_step(run, jobs.newest_job(run), 5)
    cancelled = jobs.all4one("cancel", folder)
    assert cancelled.code == 0, cancelled.out
    assert "waiting up to" in cancelled.words
    assert {jobs.cluster.job(jobs.newest_job(run))["JobState"] for run in runs} == {"CANCELLED"}
    for run in runs[:2]:
        (end,) = jobs.ledger(run, "end")
        assert end["reason"] == "cancelled"
        assert f"saved step {end['step']} and is cancelled" in cancelled.words
        assert (jobs.runs.path(run).checkpoints / f"step_{end['step']:08d}").is_dir()
    assert "was waiting and is cancelled" in cancelled.words
    assert sorted(row["state"] for row in jobs.status(folder)) == ["cancelled", "cancelled", "cancelled"]
    again = jobs.all4one("cancel", folder)
    assert (again.code, "nothing to cancel" in again.words) == (0, True)
