"""A small study on digits: stopped, shown half-way, gone on with, and refused where it would compare the unequal."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import yaml
from commands import run
from tiny_runs import TINY, Runs

from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import living_holder

SEEDS = 2


def write_study(path: Path, runs: Runs, **changed: Any) -> Path:
    study = {
        "description": "digits",
        "recipe": "digits_demo",
        "compare": "method",
        "seeds": list(range(SEEDS)),
        "grid": {"method": {"all4one": {}, "barlow_twins": {"method": {"name": "barlow_twins"}}}},
        "claims": [{"better": "all4one", "than": "barlow_twins", "by": 1000}],
    }
    path.write_text(yaml.safe_dump(study | changed))
    return path


def settings(runs: Runs) -> list[str]:
    only_all4one = ("method.predictor_hidden", "method.queue", "method.feature_scope", "method.transformer")
    common = [s for s in TINY if not s.startswith(only_all4one)]
    data = [f"data.train={runs.digits}/train", f"data.validation={runs.digits}/validation"]
    return [*common, *data, "train.max_steps=3", "optim.warmup_epochs=0", "parallel.torch_threads=1"]


def test_a_study_is_trained_and_half_of_it_can_be_read(runs: Runs, tmp_path: Path) -> None:
    out, study = tmp_path / "out", write_study(tmp_path / "study.yaml", runs)
    command = ("study", study, *settings(runs), "--out", out)
    nothing = run(*command, "--show")
    assert nothing.code == 0, nothing.out
    assert "0 of 4 runs are evaluated" in nothing.words
    assert "no seed has finished all of its runs" in nothing.words
    half = run("study", write_study(tmp_path / "half.yaml", runs, seeds=[0]), *settings(runs), "--out", out)
    assert half.code == 0, half.out
    shown = run(*command, "--show")
    assert "2 of 4 runs are evaluated" in shown.words
    assert "not decided by this budget" in shown.words
    whole = run(*command)
    assert whole.code == 0, whole.out
    assert "run 1 of 2: method=all4one,seed=1" in whole.words
    found = json.loads((out / "study.json").read_text())
    assert len(found["runs"]) == 4
    for one in found["runs"]:
        records = (
            (out / f"method={one['method']},seed={one['seed']}" / "metrics.jsonl").read_text().splitlines()
        )
        last = [r for r in map(json.loads, records) if r["kind"] == "eval"][-1]
        assert one["score"] == 100 * last["knn_online"]
        assert last["step"] == 3
    assert found["claims"][0]["verdict"] == "not held"
    assert "| all4one | 2/2 |" in (out / "study.md").read_text()
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    again = run(*command)
    assert "run 1 of" not in again.out
    sequential = run(*command, "--device-hours", 10)  # two seeds say too little to one who looks after each
    assert sequential.code == 0, sequential.out
    assert "run 1 of 2: method=all4one,seed=2" in sequential.words
    assert "of 10 device-hours are used" in sequential.words
    found = json.loads((out / "study.json").read_text())
    assert [one["seed"] for one in found["runs"]] == [0, 0, 1, 1, 2, 2]
    assert (found["claims"][0]["verdict"], found["claims"][0]["difference"]["samples"]) == ("not held", 3)
    decided = run(*command, "--device-hours", 10)
    assert "run 1 of" not in decided.out


def test_runs_at_the_same_time_are_those_of_one_after_the_other(
    no_gpus: None, runs: Runs, tmp_path: Path
) -> None:
    out, study = (
        tmp_path / "out",
        write_study(tmp_path / "study.yaml", runs, evaluator="linear_fast", seeds=[0]),
    )
    command = ("study", study, *settings(runs), "eval.every_epochs=0", "--out", out, "--parallel", 2)
    process = runs.start(*command)
    first = out / "method=all4one,seed=0"
    while not any(r["event"] == "ready" for r in read_ledger(RunFolder(first).ledger)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"progress of all runs: all4one status {out}" in output
    assert "resume the study with the same command" in output
    assert not any(living_holder(folder) for folder in out.glob("method=*"))
    done = run(*command)
    assert done.code == 0, done.out
    alone = tmp_path / "alone"
    other = run("study", study, *settings(runs), "eval.every_epochs=0", "--out", alone)
    assert other.code == 0, other.out
    here, there = (json.loads((folder / "study.json").read_text()) for folder in (out, alone))
    scores = [one["score"] for one in here["runs"]]
    assert None not in scores
    assert scores == [one["score"] for one in there["runs"]]


def test_a_run_that_fails_beside_others_is_told_and_stops_none(
    no_gpus: None, runs: Runs, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bad = {"optim": {"lr": 1e30}, "guard": {"max_skips": 1, "max_rollbacks": 0}}
    grid = {"method": {"all4one": {}, "bad": bad}}
    claims = [{"better": "all4one", "than": "bad"}]
    study = write_study(tmp_path / "study.yaml", runs, seeds=[0], grid=grid, claims=claims)
    result = run("study", study, *settings(runs), "--out", out, "--parallel", 2)
    assert result.code == 2, result.out
    assert "method=bad,seed=0 failed. The last lines of" in result.words
    assert "1 of 2 runs failed" in result.words
    assert {"run 1 of 2: method=all4one,seed=0", "run 2 of 2: method=bad,seed=0"} <= set(
        result.out.splitlines()
    )
    assert "method=all4one,seed=0: finished, " in result.words
    found = {one["method"]: one["score"] for one in json.loads((out / "study.json").read_text())["runs"]}
    assert found["bad"] is None
    assert found["all4one"] > 0


def test_what_would_compare_the_unequal_or_fail_says_so(runs: Runs, tmp_path: Path) -> None:
    out, study = tmp_path / "out", write_study(tmp_path / "study.yaml", runs, seeds=[0])
    broken = run(
        "study",
        study,
        *settings(runs),
        "optim.lr=1e30",
        "guard.max_skips=1",
        "guard.max_rollbacks=0",
        "--out",
        out,
    )
    assert broken.code == 2, broken.out
    assert "of 2 runs failed" in broken.words
    other = run("study", study, *settings(runs), "--out", out)
    assert other.code == 2
    assert "started with settings that differ" in other.words
    machines = run("study", study, *settings(runs), "--out", tmp_path / "new", "--nodes", 2)
    assert machines.code == 2
    assert "add --submit" in machines.words
    missing = run("study", study, *settings(runs), "data.train=nowhere", "--out", tmp_path / "new")
    assert missing.code == 2
    assert "nowhere" in missing.words
    assert not (tmp_path / "new").exists()
    for result in (broken, other, machines, missing):
        assert "Traceback" not in result.out


def test_a_study_is_evaluated_by_regressions_and_one_that_fails_stops_no_other(
    runs: Runs, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    study = write_study(tmp_path / "study.yaml", runs, evaluator="linear_fast", seeds=[0])
    command = ("study", study, *settings(runs), "eval.every_epochs=0", "--out", out)
    done = run(*command)
    assert done.code == 0, done.out
    result = out / "method=all4one,seed=0" / "study_eval.json"
    backbones = json.loads(result.read_text())["backbones"]
    assert backbones.keys() == {"online"}
    scores = {one["method"]: one["score"] for one in json.loads((out / "study.json").read_text())["runs"]}
    assert scores["all4one"] == 100 * backbones["online"]["linear_fast"]["top1"]
    result.rename(result.with_suffix(".part.json"))  # as an interrupted evaluator leaves it
    shown = run(*command, "--show")
    assert "1 of 2 runs are evaluated" in shown.words
    shutil.rmtree(out / "method=all4one,seed=0" / "checkpoints")
    (out / "method=barlow_twins,seed=0" / "study_eval.json").unlink()
    failed = run(*command)
    assert failed.code == 2
    assert "1 of 2 runs failed" in failed.words
    assert "has no valid checkpoint yet" in failed.words
    assert json.loads((out / "study.json").read_text())["runs"][1]["score"] == scores["barlow_twins"]


def test_a_study_of_another_set_is_refused(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = write_study(tmp_path / "study.yaml", runs, seeds=[0], grid={"method": {"all4one": {}}}, claims=[])
    assert run("study", study, *settings(runs), "train.max_steps=1", "--out", out).code == 0
    other = run("study", study, *settings(runs), "train.max_steps=1", "data.eval_resize=40", "--out", out)
    assert other.code == 2
    assert "started with settings that differ" in other.words


def test_parts_that_were_trained_in_two_folders_are_combined(runs: Runs, tmp_path: Path) -> None:
    files = []
    for seed in range(SEEDS):
        place = tmp_path / f"place_{seed}"
        part = write_study(tmp_path / f"part_{seed}.yaml", runs, seeds=[seed])
        done = run("study", part, *settings(runs), "--out", place)
        assert done.code == 0, done.out
        files.append(place / "study.json")
    parts = [json.loads(file.read_text())["runs"] for file in files]
    study, both = write_study(tmp_path / "study.yaml", runs), tmp_path / "both"
    command = ("study", study, *settings(runs), "--out", both)
    given = ("--results", files[0], "--results", files[1])
    shown = run(*command, *given, "--show")
    assert shown.code == 0, shown.out
    assert "4 of 4 runs are evaluated" in shown.words
    assert f"The results of 4 of 4 runs come from files: 2 from {files[0]}, 2 from {files[1]}." in shown.words
    found = json.loads((both / "study.json").read_text())
    assert found["runs"] == parts[0] + parts[1]
    assert all(one["score"] > 0 and one["device_hours"] > 0 for one in found["runs"])
    for name, part in (("data", "train"), ("validation", "validation")):
        record = json.loads((runs.digits / part / "dataset.json").read_text())
        assert {one[name] for one in found["runs"]} == {record["fingerprint"]}
    assert found["claims"][0]["difference"]["samples"] == SEEDS
    shutil.rmtree(files[0].parent)
    newest = ("--results", both / "study.json")  # the report alone is enough to go on, in its own folder too
    whole = run(*command, *newest)
    assert whole.code == 0, whole.out
    assert "run 1 of" not in whole.out
    assert json.loads((both / "study.json").read_text())["runs"] == found["runs"]
    more = write_study(tmp_path / "more.yaml", runs, seeds=[*range(SEEDS), 7])
    for own, other in (("train", "validation"), ("validation", "train")):
        other_set = [*settings(runs), f"data.{own}={runs.digits}/{other}"]
        refused = run("study", more, *other_set, "--out", tmp_path / "third", *newest)
        assert refused.code == 2
        words = "training" if own == "train" else own
        assert f"the {words} set is not the one of the run method=all4one,seed=0 in" in refused.words
        assert not (tmp_path / "third").exists()
        assert "Traceback" not in refused.out
    changed = run(*command, *newest, "--show", "optim.lr=0.5")
    assert changed.code == 2
    assert "undo the changes to the study, or leave the file out" in changed.words
