"""Searches as job arrays: each trial draws its settings when its job starts."""

import json

from submitted_runs import NO_CHECK

from trainer.runs.run_folder import RunFolder


def test_a_search_is_an_array_whose_trials_learn_from_those_before(jobs, tmp_path) -> None:
    folder = tmp_path / "search"
    settings = [one for one in jobs.runs.common if not one.startswith("run.")]
    command = (
        *("tune", *settings, NO_CHECK, "data.executor=opencv", "--out", folder),
        *("--search", "optim.lr=0.01..1.0:log", "--trials", 3, "--prune"),
        *("--submit", "--array-parallelism", 2, "--cpus-per-task", 1, "--nodes", 1),
    )
    queued = jobs.all4one(*command)
    assert queued.code == 0, queued.out
    waiting = jobs.all4one(*command)
    assert waiting.code == 2
    assert "are queued or running" in waiting.words
    jobs.cluster.until(
        lambda: not jobs.cluster.run("squeue", "--noheader"), 150, "the array does not end", every=1.0
    )
    logs = "\n".join(path.read_text(errors="replace") for path in sorted((folder / "slurm").glob("*.out")))
    found = json.loads(jobs.all4one("trials", folder, "--json").out)["trials"]
    assert {one["state"] for one in found} <= {"finished", "pruned"}, logs
    assert sum(one["state"] == "finished" for one in found) >= 1, logs
    rates = [RunFolder(folder / f"trial_{number:03d}").read_config().optim.lr for number in range(3)]
    assert sorted(rates) == sorted(one["settings"]["optim.lr"] for one in found)
    assert len(set(rates)) == 3
    over = jobs.all4one(*command)
    assert over.code == 0, over.out
    assert "train with the best settings" in over.words
