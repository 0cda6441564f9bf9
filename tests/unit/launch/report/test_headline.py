"""The key figures of a run, with the step that each accuracy belongs to."""

import json
from pathlib import Path
from typing import Any

from launch.report.facts import RunFacts, read_facts
from launch.report.headline import KeyFigure, key_figures
from launch.report.tables import side_by_side
from trainer.config.schema import load_config
from trainer.runs.records import append_record
from trainer.runs.run_folder import create_run

AT_START = {"kind": "eval", "step": 0, "epoch": 0.0, "knn_online": 0.8}
LATER = {"kind": "eval", "step": 40, "epoch": 2.0, "knn_online": 0.7}
TRAIN = {"kind": "train", "step": 50, "epoch": 2.5, "loss": 1.0}


def a_run(folder: Path, *records: dict[str, Any], knn_of_eval: int | None = None, sets: str = "") -> RunFacts:
    config = load_config("digits_demo", [f"run.folder={folder}", "run.name=one", *sets.split()])
    run = create_run(config, "one")
    for record in records:
        append_record(run.metrics, record)
    if knn_of_eval is not None:
        found = {
            "checkpoint": f"runs/one/checkpoints/step_{knn_of_eval:08d}",
            "validation": "data/cars",
            "images": 200,
            "backbones": {"online": {"knn_20": {"top1": 0.9}, "linear_fast": {"top1": 0.95}}},
        }
        (run.path / "eval.json").write_text(json.dumps(found))
    return read_facts([run])[0]


def named(facts: RunFacts, name: str) -> KeyFigure:
    [found] = [figure for figure in key_figures(facts) if figure.name == name]
    return found


def test_knn_is_that_of_the_newest_evaluation_and_names_its_step(tmp_path: Path) -> None:
    found = named(a_run(tmp_path, AT_START, LATER, TRAIN), "kNN, online backbone")
    assert (found.value, found.when) == ("70.00 %", "epoch 2, step 40")
    assert found.meaning


def test_an_evaluation_of_an_untrained_backbone_is_called_that(tmp_path: Path) -> None:
    found = a_run(tmp_path, AT_START, TRAIN)
    assert named(found, "kNN, online backbone").when == "step 0: untrained backbone"
    [row] = side_by_side([found]).rows
    assert "80.00 % (step 0: untrained backbone)" in row


def test_a_backbone_that_starts_from_weights_is_not_called_untrained(tmp_path: Path) -> None:
    found = a_run(tmp_path, AT_START, sets="backbone.init=weights.pth")
    assert named(found, "kNN, online backbone").when == (
        "step 0: before training, with the weights that the run starts from"
    )


def test_a_later_evaluation_by_command_is_preferred_and_an_earlier_one_is_not(tmp_path: Path) -> None:
    later = named(a_run(tmp_path / "a", AT_START, LATER, knn_of_eval=50), "kNN, online backbone")
    assert (later.value, later.when) == ("90.00 %", "step 50, evaluated separately, 20 neighbors")
    earlier = named(a_run(tmp_path / "b", AT_START, LATER, knn_of_eval=20), "kNN, online backbone")
    assert earlier.value == "70.00 %"


def test_other_accuracies_name_the_step_of_their_checkpoint(tmp_path: Path) -> None:
    found = named(a_run(tmp_path, knn_of_eval=8), "linear_fast, online")
    assert (found.value, found.when) == ("95.00 %", "step 8, evaluated separately")


def test_a_run_that_has_only_been_made_promises_nothing(tmp_path: Path) -> None:
    found = a_run(tmp_path)
    assert named(found, "steps").value == "0"
    assert not [figure for figure in key_figures(found) if "kNN" in figure.name]


def test_epochs_are_no_goal_where_steps_are(tmp_path: Path) -> None:
    assert named(a_run(tmp_path / "a"), "epochs").value == "0 of 60"
    assert named(a_run(tmp_path / "b", sets="train.max_steps=3"), "epochs").value == "0"
