"""Studies as job arrays of the cluster."""

import json
import shutil

import yaml
from submitted_runs import SHORT


def test_a_study_is_queued_as_an_array_and_reported(jobs, tmp_path) -> None:
    study, out = tmp_path / "study.yaml", tmp_path / "out"
    study.write_text(
        yaml.safe_dump(
            {
                "description": "digits",
                "recipe": "digits_demo",
                "compare": "k",
                "seeds": [0],
                "evaluator": "linear_fast",
                "grid": {"k": {"5": {}, "2": {"method": {"num_neighbors": 2}}}},
            }
        )
    )
    _, *settings = jobs.runs.common
    settings = [s for s in settings if not s.startswith("run.folder")]
    command = (
        "study",
        study,
        *settings,
        *SHORT,
        "train.max_steps=3",
        "eval.every_epochs=0",
        "optim.warmup_epochs=0",
        "slurm.cpus_per_task=1",
        "slurm.extra.hold=true",  # however slow the commands are, the jobs still wait
        "--out",
        out,
    )
    result = jobs.all4one(*command, "--submit")
    assert result.code == 0, result.out
    assert [one["score"] for one in json.loads((out / "study.json").read_text())["runs"]] == [None, None]
    twice = jobs.all4one(*command, "--submit")
    assert twice.code == 2
    assert "of this study are queued or running" in twice.words
    here = jobs.all4one(*command)
    assert here.code == 2
    assert "of this study are queued or running" in here.words
    array = json.loads((out / "k=5,seed=0" / "slurm" / "jobs.jsonl").read_text())["job"].partition("_")[0]
    jobs.cluster.run("scontrol", "release", array)
    for element in range(2):
        jobs.cluster.wait_for_state(f"{array}_{element}", "COMPLETED", timeout=120)
    shown = jobs.all4one(*command, "--show")  # which fits nothing: the jobs have evaluated their own runs
    assert "2 of 2 runs are evaluated" in shown.words
    assert all(one["score"] > 0 for one in json.loads((out / "study.json").read_text())["runs"])

    (out / "k=5,seed=0" / "study_eval.json").unlink()
    shutil.rmtree(out / "k=2,seed=0")
    one = jobs.all4one(*command, "--submit")
    assert one.code == 0, one.out
    assert "1 of 2 runs are trained but not evaluated" in one.words
    folder = out / "k=2,seed=0" / "slurm"
    job = json.loads((folder / "jobs.jsonl").read_text())["job"]
    jobs.cluster.run("scontrol", "release", job)
    jobs.cluster.wait_for_state(job, "COMPLETED", timeout=120)
    assert (
        folder / f"{job}_0_log.out"
    ).is_file()  # where `status` looks for SLURM's words on how the job ended
    assert jobs.all4one(*command).code == 0
    assert all(one["score"] > 0 for one in json.loads((out / "study.json").read_text())["runs"])

    study.write_text(study.read_text().replace("- 0\n", "- 0\n- 1\n"))
    there = tmp_path / "there"
    further = jobs.all4one(*command[:-1], there, "--submit", "--results", out / "study.json")
    assert further.code == 0, further.out
    assert "2 runs of" in further.words
    assert sorted(path.name for path in there.glob("k=*")) == ["k=2,seed=1", "k=5,seed=1"]
    listed = json.loads((there / "study.json").read_text())["runs"]
    assert listed[:2] == json.loads((out / "study.json").read_text())["runs"]
    for path in there.glob("k=*"):
        assert jobs.all4one("cancel", path).code == 0
