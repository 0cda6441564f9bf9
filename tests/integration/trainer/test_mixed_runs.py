"""Runs on a mix of two sets of different sizes and classes, and on a part of a set."""

from pathlib import Path

import pytest
from noise_sets import make_set
from tiny_runs import Runs


@pytest.fixture(scope="module")
def mixed(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits, and a small set that repeats within an epoch."""
    noise = make_set(tmp_path_factory.mktemp("noise"), 40, ["dark", "light"])
    return f"data.train=[{{path: {runs.digits}/train, weight: 3}}, {{path: {noise}, weight: 1}}]"


@pytest.fixture(scope="module")
def whole(runs: Runs, mixed: str) -> str:
    """Name of a run on the mix that nothing disturbed."""
    result = runs.train("mixed", mixed)
    assert result.code == 0, result.out
    return "mixed"


def test_a_run_on_a_mix_trains_and_is_evaluated_on_the_classes_of_one_set(runs: Runs, whole: str) -> None:
    evaluations = [r for r in runs.metrics(whole) if r["kind"] == "eval"]
    assert [r["step"] for r in evaluations] == [0, 14]
    assert all(0.1 < r["knn_online"] <= 1 for r in evaluations)
    assert runs.tensors(whole)["classifier.weight"].shape[0] == 12, "ten digits, dark and light"


def test_killed_in_the_middle_of_an_epoch_a_run_on_a_mix_ends_bitwise_the_same(
    runs: Runs, mixed: str, whole: str
) -> None:
    process = runs.start(*runs.arguments("mixed_killed", mixed), "--nproc", 2)
    runs.wait_for_step("mixed_killed", 6, process)
    runs.kill(process)
    result = runs.resume("mixed_killed")
    assert result.code == 0, result.out
    assert "resuming from step_" in result.words
    runs.assert_same("mixed_killed", whole)


def test_other_weights_are_another_training_set(runs: Runs, mixed: str, whole: str) -> None:
    refused = runs.resume(whole, mixed.replace("weight: 3", "weight: 2"))
    assert refused.code == 2
    assert "the training set is not the one that the checkpoint was made with" in refused.words
    same = runs.resume(whole, mixed.replace("weight: 3", "weight: 0.3").replace("weight: 1", "weight: 0.1"))
    assert same.code == 0, same.out


def test_a_run_on_a_mix_can_be_evaluated_reported_and_exported(
    runs: Runs, whole: str, command, tmp_path: Path
) -> None:
    path = runs.path(whole).path
    evaluated = command("eval", path)
    assert evaluated.code == 0, evaluated.out
    assert "online_classifier" in (path / "eval.json").read_text(), "it knows the classes of the mix"
    page = command("report", path)
    assert page.code == 0, page.out
    exported = command("export", path, "--format", "hf", "--out", tmp_path / "hf")
    assert exported.code == 0, exported.out
    assert "images + " in (tmp_path / "hf" / "README.md").read_text()


def test_a_run_on_a_part_of_a_set_is_evaluated_on_its_classes(runs: Runs, command) -> None:
    part = ("data.classes=[1, 4, 7]", "data.max_samples=300")
    result = runs.train("part", *part, "train.max_steps=6")
    assert result.code == 0, result.out
    assert runs.tensors("part")["classifier.weight"].shape[0] == 3
    evaluations = [r for r in runs.metrics("part") if r["kind"] == "eval"]
    assert all(0.3 < r["knn_online"] <= 1 for r in evaluations)
    assert [round(r["epoch"], 2) for r in evaluations] == [0, 1, 1.5], "an epoch has four batches of 64"
    refused = runs.resume("part", "data.max_samples=200")
    assert (refused.code, "data.max_samples: 300 -> 200" in refused.words) == (2, True)
    evaluated = command("eval", runs.path("part").path)
    assert evaluated.code == 0, evaluated.out
    assert "online_classifier" in (runs.path("part").path / "eval.json").read_text()
