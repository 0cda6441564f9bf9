"""`all4one submit`, `status`, `logs`: what a user of a cluster sees."""

import json

from slurm_cluster import NET
from webhook import webhook


def test_a_run_on_two_machines_trains_is_followed_to_its_end_and_tells_of_it(jobs, tmp_path) -> None:
    with webhook(tmp_path, f"{NET}.1", jobs.cluster.head) as hook:
        result = jobs.all4one(
            "submit",
            *jobs.runs.common,
            *hook.settings,
            "run.name=plain",
            "data.executor=dali",
            "--gpus-per-node",
            1,
            "--nodes",
            2,
            "--cpus-per-task",
            1,
            "--wait",
        )
        assert result.code == 0, result.out + jobs.output("plain")
        (message,) = hook.wait_for(1)
    assert message.title == "plain has finished"
    assert "step 14" in result.words
    (start,) = jobs.ledger("plain", "start")
    assert (start["world_size"], start["nodes"]) == (2, "node[1-2]")
    status = json.loads(jobs.all4one("status", jobs.runs.folder, "--json").out)
    (run,) = (r for r in status["runs"] if r["run"].endswith("/plain"))
    assert (run["state"], run["step"], run["total_steps"], run["attempts"]) == ("finished", 14, 14, 1)
    assert run["checkpoint_step"] == 14
    assert "step 14" in jobs.all4one("logs", jobs.runs.path("plain").path).words
    again = jobs.all4one("resume", jobs.runs.path("plain").path)
    assert "is finished" in again.words
    longer = jobs.all4one(
        "submit", "--from", jobs.runs.path("plain").path, "train.max_steps=16", "--nodes", 1, "--follow"
    )
    assert longer.code == 0, longer.out + jobs.output("plain_from_14")
    assert "goes on from step 14" in longer.words
    (ready,) = jobs.ledger("plain_from_14", "ready")
    assert (ready["step"], ready["total_steps"]) == (14, 16)
    (run,) = jobs.status(jobs.runs.path("plain_from_14").path)
    assert (run["state"], run["step"]) == ("finished", 16)


def test_while_the_controller_hangs_the_folders_say_what_they_know(jobs) -> None:
    job = jobs.submit("held", "--nodes", 1, "--slurm", "hold=true")
    folder = jobs.runs.path("held").path
    with jobs.cluster.controller_hangs():
        said = jobs.all4one("status", folder)
        refused = jobs.all4one("cancel", folder)
    assert "does not answer" in said.words
    assert "│ held │ new" in said.words
    assert refused.code == 2
    assert "does not answer" in refused.words
    (waits,) = json.loads(jobs.all4one("status", folder, "--json").out)["runs"]
    assert (waits["state"], waits["job"], waits["why"]) == ("pending", job, "JobHeldUser")
    again = jobs.all4one("resume", folder)
    assert again.code == 2
    assert f"job {job} of this run is pending" in again.words
    assert jobs.all4one("cancel", folder).code == 0
    assert jobs.cluster.job(job)["JobState"] == "CANCELLED"


def test_what_would_fail_is_refused_before_queueing_all_at_once(jobs) -> None:
    before = jobs.cluster.run("squeue", "--noheader", "--states=all")
    result = jobs.all4one(
        "submit",
        *jobs.runs.common,
        "run.name=wrong",
        "--nodes",
        3,
        "--partition",
        "nowhere",
        "train.global_batch=1600",
        "backbone.name=resnet19",
    )
    assert result.code == 2, result.out
    for part in ("nowhere", "main", "set train.global_batch to", "less than one batch", "resnet18"):
        assert part in result.words, part
    assert "Traceback" not in result.out
    assert not jobs.runs.path("wrong").path.exists()
    assert jobs.cluster.run("squeue", "--noheader", "--states=all") == before


def test_a_dry_run_prints_script_and_settings_and_queues_nothing(jobs) -> None:
    result = jobs.all4one(
        "submit",
        *jobs.runs.common,
        "run.name=dry",
        "--nodes",
        2,
        "--gpus-per-node",
        2,
        "--time",
        "2h",
        "--cpus-per-task",
        2,
        "--dry-run",
        "--setup",
        "module load cuda",
        "--slurm",
        "mail-type=END",
        "--srun-arg=--cpu-bind=none",
        "--slurm",
        "begin=16:00",
        "--slurm",
        "comment='of three'",
        "--slurm",
        "contiguous=yes",
        "--slurm",
        "dependency=singleton",
        "--account",
        123,
        "--mem",
        100,
    )
    assert result.code == 0, result.out
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --ntasks-per-node=1",  # the agent
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --no-kill",
        "#SBATCH --time=120",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --mail-type=END",
        "module load cuda",
        "#SBATCH --begin=16:00",
        "#SBATCH --comment='of three'",
        "#SBATCH --contiguous\n",
        "#SBATCH --dependency=singleton",
        "#SBATCH --account=123",
        "#SBATCH --mem=100",
        "signal_lead_seconds: 120",
    ):
        assert line in result.out, line
    assert "--no-kill --kill-on-bad-exit=0 --wait=0 --cpus-per-task=4 --cpu-bind=none" in result.out
    assert not jobs.runs.path("dry").path.exists()
