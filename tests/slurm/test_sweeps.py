"""Sweeps as one job array: every run by itself, and one table of them."""

import json

from submitted_runs import SHORT


def test_of_four_runs_one_fails_one_is_disturbed_and_three_finish(jobs) -> None:
    result = jobs.all4one(
        "submit",
        *jobs.runs.common,
        *SHORT,
        "train.max_steps=20",
        "run.name=sweep",
        "optim.name=sgd",
        "optim.warmup_epochs=0",
        "--cpus-per-task",
        1,
        "--sweep",
        "optim.lr=0.01,0.02,0.03,1e30",
        "--array-parallelism",
        3,
    )
    assert result.code == 0, result.out
    folder = jobs.runs.path("sweep").path
    runs = {path.parent.name: f"sweep/{path.parent.name}" for path in folder.glob("*/config.yaml")}
    assert sorted(runs) == ["lr=0.01", "lr=0.02", "lr=0.03", "lr=1e30"]
    number = {name: jobs.newest_job(run) for name, run in runs.items()}
    array = number["lr=0.01"].partition("_")[0]
    assert set(number.values()) == {f"{array}_{element}" for element in range(4)}
    assert "ArrayTaskThrottle=3" in jobs.cluster.run("scontrol", "show", "job", array)

    disturbed, fails = "lr=0.02", "lr=1e30"
    jobs.wait_for_step(runs[disturbed], number[disturbed], 3)
    jobs.cluster.run("scancel", "--signal=USR2", number[disturbed])
    for name in ("lr=0.01", disturbed, "lr=0.03"):
        jobs.finish(runs[name], number[name])
    assert [end["reason"] for end in jobs.ledger(runs[disturbed], "end")] == ["time is up", "finished"]
    assert jobs.ledger(runs[disturbed], "ready")[-1]["replayed"] == 0
    jobs.cluster.wait_for_state(number[fails], "FAILED", timeout=90)

    table = {row["run"].rpartition("/")[2]: row for row in jobs.status(folder)}
    assert {name: row["state"] for name, row in table.items()} == {
        "lr=0.01": "finished",
        disturbed: "finished",
        "lr=0.03": "finished",
        fails: "error",
    }
    assert "has loss" in table[fails]["why"]
    assert "has loss" in jobs.all4one("status", folder).words
    again = jobs.all4one("resume", folder / "lr=0.01")
    assert "is finished" in again.words


def test_wrong_sweeps_are_refused_before_anything_is_made(jobs) -> None:
    common = ("submit", *jobs.runs.common, *SHORT, "run.name=wrong_sweep")
    for arguments, said in (
        (("--sweep", "optim.lr"), "key=value"),
        (("--sweep", "optim.rate=1,2"), "did you mean"),
        (("--sweep", "train.global_batch=64,100000"), "less than one batch"),
        (("--sweep", "slurm.nodes=1,2"), "cannot be swept"),
        (("--sweep", "run.seed=0,1", "--chain", 2), "cannot be a chain"),
        (("--sweep", "run.seed=0,1", "--partition", "nowhere"), "nowhere"),
        (("--sweep", "run.seed=0,1", "--wait"), "status"),
    ):
        refused = jobs.all4one(*common, *arguments)
        assert refused.code == 2, refused.out
        assert said in refused.words
        assert "Traceback" not in refused.out
    dry = jobs.all4one(*common, "--sweep", "run.seed=0,1", "--dry-run")
    assert "#SBATCH --array=0-1%2" in dry.out
    assert "seed=1" in dry.out
    assert not jobs.runs.path("wrong_sweep").path.exists()


def test_the_untouched_runs_of_a_sweep_are_listed_while_they_wait(jobs) -> None:
    result = jobs.all4one(
        "submit",
        *jobs.runs.common,
        *SHORT,
        "run.name=waiting",
        "--sweep",
        "run.seed=0,1,2",
        "--slurm",
        "hold=true",
    )
    assert result.code == 0, result.out
    folder = jobs.runs.path("waiting").path
    assert [row["state"] for row in jobs.status(folder)] == ["pending"] * 3
    assert jobs.all4one("cancel", folder / "seed=1").code == 0
    assert [row["state"] for row in jobs.status(folder)] == ["pending", "new", "pending"]  # SLURM forgets it
    for seed in (0, 2):
        jobs.all4one("cancel", folder / f"seed={seed}")
    listed = json.loads(jobs.all4one("status", jobs.runs.folder, "--json").out)["runs"]
    assert sum("/waiting/" in row["run"] for row in listed) == 3
