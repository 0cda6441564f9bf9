"""Profiles on several numbers of machines of a cluster."""

import json

from submitted_runs import SHORT

COMMON = ("optim.warmup_epochs=0", "slurm.cpus_per_task=1")


def test_a_recipe_is_profiled_on_one_machine_and_on_two(jobs, tmp_path) -> None:
    recipe, *settings = jobs.runs.common
    result = jobs.all4one(
        "profile",
        recipe,
        *settings,
        *SHORT,
        *COMMON,
        "train.global_batch=32",
        "--nodes",
        "2,1",
        "--steps",
        2,
        "--out",
        tmp_path,
    )
    assert result.code == 0, result.out
    one, two = json.loads((tmp_path / "scaling.json").read_text())
    assert (one["nodes"], one["ranks"], one["efficiency"]) == (1, 1, 1.0)
    assert (two["nodes"], two["ranks"]) == (2, 2)
    assert two["efficiency"] == two["images_per_second"] / 2 / one["images_per_second"]
    profiles = {n: json.loads((tmp_path / f"nodes_{n}" / "profile.json").read_text()) for n in (1, 2)}
    assert {n: p["global_batch"] for n, p in profiles.items()} == {1: 16, 2: 32}
    assert profiles[1]["messages"] == []
    assert "gradients" in {m["kind"] for m in profiles[2]["messages"]}
    for picture in ("scaling.png", "nodes_1/profile.png", "nodes_2/profile.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "100.0 %" in result.words


def test_what_cannot_be_profiled_on_machines_says_why(jobs, tmp_path) -> None:
    recipe, *settings = jobs.runs.common
    command = ("profile", recipe, *settings, *SHORT, *COMMON, "--steps", 2, "--out", tmp_path / "p")
    for arguments, said in (
        (("--nodes", "1,two"), "such as 1,2,4"),
        (("--nodes", "1", "--nproc", 2), "--tasks-per-node"),
        (("--gpus-per-node", 2), "add --nodes"),
        (("--nodes", "2,3", "train.global_batch=16"), "multiple of 3"),
        (("--nodes", "1", "slurm.partition=nowhere"), "nowhere"),
    ):
        refused = jobs.all4one(*command, *arguments)
        assert refused.code == 2, refused.out
        assert said in refused.words
        assert "Traceback" not in refused.out
    assert not (tmp_path / "p").exists()
    failed = jobs.all4one(*command, "--nodes", "1,2", "train.global_batch=16", 'slurm.setup=["exit 3"]')
    assert failed.code == 2
    assert "wrote no profile. Its state: failed" in failed.words
    assert not jobs.cluster.run("squeue", "--noheader").strip()
