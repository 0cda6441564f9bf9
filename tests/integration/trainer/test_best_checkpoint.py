"""Runs that keep their best checkpoint, evaluated at other steps than those of the checkpoints."""

import json
from typing import Any

import pytest
from tiny_runs import Runs

from trainer.checkpoints.folder_names import list_checkpoints, step_and_revision

METRIC = "knn_online"
SETTINGS = (
    f"checkpoint.keep_best={METRIC}",
    "checkpoint.keep_last=1",
    "checkpoint.every_steps=16",
    "train.global_batch=128",
    "train.max_steps=50",
    "optim.lr=3",
)


def evaluations(runs: Runs, name: str) -> dict[int, float]:
    return {r["step"]: r[METRIC] for r in runs.metrics(name) if r["kind"] == "eval"}


def steps_on_disk(runs: Runs, name: str) -> list[int]:
    return sorted(step_and_revision(path)[0] for path in list_checkpoints(runs.path(name).checkpoints))


def best_of(values: dict[int, float]) -> int:
    return max((step for step in values if step), key=lambda step: (values[step], -step))


@pytest.fixture(scope="module")
def kept(runs: Runs) -> str:
    result = runs.train("kept", *SETTINGS)
    assert result.code == 0, result.out
    return "kept"


def test_the_checkpoint_of_the_best_evaluation_is_kept_and_holds_the_evaluated_state(
    runs: Runs, kept: str, command: Any
) -> None:
    values = evaluations(runs, kept)
    best = best_of(values)
    assert best < 50, values  # the newest checkpoint would be kept anyway
    assert steps_on_disk(runs, kept) == [best, 50]
    named = f"{runs.path(kept).path}@best"
    out = runs.folder / "best.json"
    result = command("eval", named, "--knn", "--backbone", "online", "--out", out)
    assert result.code == 0, result.out
    found = json.loads(out.read_text())
    assert found["checkpoint"].endswith(f"step_{best:08d}")
    assert found["backbones"]["online"]["knn_20"]["top1"] == pytest.approx(values[best], abs=0.006)


def test_status_and_report_name_the_best_checkpoint(runs: Runs, kept: str, command: Any) -> None:
    values = evaluations(runs, kept)
    best = best_of(values)
    path = runs.path(kept).path
    found = json.loads(command("status", path, "--json").out)
    assert found["runs"][0]["best"] == {"step": best, "metric": METRIC, "value": values[best]}
    assert f"kept: best checkpoint at step {best}, {METRIC}" in command("status", path).words
    assert command("report", path, "--no-pictures").code == 0
    assert "best checkpoint" in (path / "report.html").read_text()


def test_another_run_begins_with_the_best_state(runs: Runs, kept: str, command: Any) -> None:
    best = best_of(evaluations(runs, kept))
    given = ("run.name=from_best", "train.max_steps=51")
    result = command("train", "--from", f"{runs.path(kept).path}@best", *given)
    assert result.code == 0, result.out
    assert f"goes on from step {best} of" in result.words


def test_after_kills_the_same_checkpoints_are_left(runs: Runs, kept: str) -> None:
    name = "kept_and_killed"
    for step in (13, 22, 44):
        begun = (runs.folder / name / "config.yaml").exists()
        again = ("resume", runs.folder / name) if begun else runs.arguments(name, *SETTINGS)
        process = runs.start(*again, "--nproc", 2)
        runs.wait_for_step(name, step, process)
        runs.kill(process)
    result = runs.resume(name)
    assert result.code == 0, result.out
    runs.assert_same(name, kept)
    assert steps_on_disk(runs, name) == steps_on_disk(runs, kept)


def test_a_metric_that_the_run_never_gives_is_refused_before_it_starts(runs: Runs) -> None:
    for given, words in (
        (("checkpoint.keep_best=knn_20",), "use knn_online or knn_momentum"),
        ((SETTINGS[0], "eval.every_epochs=0"), "set eval.every_epochs above 0"),
        ((SETTINGS[0], "data.validation=null"), "set data.validation to a labeled dataset"),
    ):
        result = runs.train("refused", *given)
        assert result.code == 2, result.out
        assert words in result.words
        assert not runs.path("refused").path.exists()
