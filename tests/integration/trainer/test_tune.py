"""Searches whose trials really train."""

import json
import signal
import time
from pathlib import Path

import pytest
from commands import run
from tiny_runs import Runs

from trainer.runs.run_folder import RunFolder

QUICK = ("train.max_steps=12", "optim.warmup_epochs=0", "data.executor=opencv")


@pytest.fixture
def settings(runs: Runs) -> list[str]:
    """What all trials share."""
    return [one for one in runs.common if not one.startswith(("run.", "train.max_steps", "optim.warmup"))]


def trials(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("trials", folder, "--json").out)["trials"]
    return found


def test_a_search_that_is_stopped_goes_on_with_the_same_trials(settings: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "search"
    asked = ("tune", *settings, *QUICK, "--search", "optim.lr=0.01..1.0:log", "--out", folder)
    first = run(*asked, "--trials", 2)
    assert first.code == 0, first.out
    before = trials(folder)
    assert [one["state"] for one in before] == ["finished", "finished"]
    # as after a kill in the second trial, before its end was told
    (folder / "trial_001" / "ledger.jsonl").write_text("")
    again = run(*asked, "--trials", 3)
    assert again.code == 0, again.out
    after = {str(one["run"]): one for one in trials(folder)}
    assert len(after) == 3
    for one in before:
        assert after[str(one["run"])] == one
    rates = [RunFolder(Path(name)).read_config().optim.lr for name in after]
    assert len(set(rates)) == 3
    assert all(0.01 <= rate <= 1 for rate in rates)
    assert (
        f"optim.lr={max(after.values(), key=lambda one: one['value'])['settings']['optim.lr']}" in again.words
    )
    other = run(*asked, "--trials", 3, "--seed", 1)
    assert other.code == 2
    assert "begun with other values of seed" in other.words


def test_trials_train_at_the_same_time_and_a_stopped_search_goes_on(
    no_gpus: None, runs: Runs, settings, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    asked = (
        *("tune", *settings, *QUICK, "--search", "optim.lr=0.01,0.1,1e30", "--sampler", "random"),
        *("--out", folder, "--trials", 3, "--seed", 5, "--parallel", 2),
        *("guard.max_skips=1", "guard.max_rollbacks=0"),
    )
    process = runs.start(*asked)
    while not all((folder / f"trial_{number:03d}" / "output.log").exists() for number in range(2)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "continue the search with the same command" in output
    drawn = [RunFolder(folder / f"trial_{number:03d}").read_config().optim.lr for number in range(2)]
    done = run(*asked)
    found = trials(folder)
    assert {str(one["run"]) for one in found} == {str(folder / f"trial_{number:03d}") for number in range(3)}
    rates = [RunFolder(folder / f"trial_{number:03d}").read_config().optim.lr for number in range(3)]
    assert rates == [*drawn, 1e30]
    assert done.code == 2, done.out
    assert "1 of 3 trials failed" in done.words
    assert [one["state"] for one in found].count("finished") == 2


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_trial_that_falls_behind_is_stopped_and_saved(
    no_gpus: None, settings: list[str], tmp_path: Path, parallel: int
) -> None:
    folder = tmp_path / "search"
    long = ("train.max_steps=60", "optim.warmup_epochs=0", "data.executor=opencv", "data.max_samples=128")
    result = run(
        *("tune", *settings, *long, "--out", folder),
        *("--search", "optim.lr=0.01..1.0:log", "--sampler", "random", "--trials", 3, "--prune"),
        *("--parallel", parallel),
    )
    assert result.code == 0, result.out
    found = trials(folder)
    pruned = [one for one in found if one["state"] == "pruned"]
    assert pruned, found
    for one in pruned:
        trial = RunFolder(Path(str(one["run"])))
        assert not trial.is_finished()
        assert (trial.checkpoints / "latest").exists()
        # Further evaluations may come before the signal is obeyed.
        assert json.loads(trial.pruned.read_text())["step"] <= int(str(one["step"])) < 60
    states = {one["run"]: one["state"] for one in json.loads(run("status", folder, "--json").out)["runs"]}
    assert {states[str(one["run"])] for one in pruned} == {"pruned"}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--search", "optim.lr=1..3", "eval.every_epochs=0"], "have none"),
        (["--search", "optim.lr=1..3", "--metric", "knn_20"], "checkpoint.keep_best=knn_20 is no metric"),
        (["--search", "optim.lrr=1..3"], "optim.lrr"),
        (["--search", "run.seed=1..3"], "cannot vary run.seed"),
        (["--search", "method.queue.size=1,100"], "queue.size"),
        ([], "at least one setting"),
        (["--search", "optim.lr=1..3", "--nodes", "2"], "--submit"),
        (["--search", "optim.lr=1..3", "backbone.name=resnet19"], "resnet19"),
    ],
)
def test_what_would_stop_a_trial_is_refused_before_the_first_one(
    settings: list[str], tmp_path: Path, arguments: list[str], match: str
) -> None:
    folder = tmp_path / "search"
    result = run("tune", *settings, *QUICK, *arguments, "--out", folder)
    assert result.code == 2, result.out
    assert match in result.words
    assert "Traceback" not in result.out
    assert not folder.exists()
