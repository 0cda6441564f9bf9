"""What a report reads of runs: names that tell them apart, and settings that are not the base recipe's."""

import json
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.report.facts import differences_between, differences_from_base, read_facts, short_names
from trainer.config.schema import dump, load_config
from trainer.runs.run_folder import RunFolder, create_run


def test_runs_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    assert short_names([tmp_path / "a" / "one", tmp_path / "b" / "two"]) == ["one", "two"]
    assert short_names([tmp_path / "a" / "one", tmp_path / "b" / "one"]) == ["a/one", "b/one"]
    assert short_names([tmp_path / "one", tmp_path / "one" / "one"]) == ["one", "one/one"]


def test_the_base_recipe_does_not_differ_from_itself() -> None:
    assert differences_from_base(load_config("base", [])) == []


def test_settings_are_compared_with_the_base_also_inside_of_lists() -> None:
    config = load_config("base", ["train.epochs=7", "data.views.1.size=96", "run.name=mine"])
    assert differences_from_base(config) == [("data.views.1.size", 224, 96), ("train.epochs", 100, 7)]


def test_another_method_is_compared_with_its_own_defaults() -> None:
    config = load_config("base", ["method.name=barlow_twins", "method.embedding_dim=512"])
    assert differences_from_base(config) == [
        ("method.name", "all4one", "barlow_twins"),
        ("method.embedding_dim", 8192, 512),
    ]


def test_settings_in_which_runs_disagree_have_a_value_for_each() -> None:
    one = load_config("base", ["run.name=one"])
    two = load_config("base", ["run.name=two", "optim.lr=2.0", "method.name=barlow_twins"])
    found = dict(differences_between([dump(one), dump(two)]))
    assert found["optim.lr"] == [1.0, 2.0]
    assert found["method.name"] == ["all4one", "barlow_twins"]
    assert found["method.num_neighbors"] == [5, None]
    assert not [key for key in found if key.startswith("run.")]


def test_a_run_that_has_only_been_made_is_read(tmp_path: Path) -> None:
    config = load_config("digits_demo", [f"run.folder={tmp_path}", "run.name=new"])
    [facts] = read_facts([create_run(config, "new")])
    assert facts.name == "new"
    assert facts.status.state == "new"
    assert (facts.records, facts.evaluated, facts.versions) == ([], None, {})


def test_results_of_the_same_weights_and_sets_stand_together(tmp_path: Path) -> None:
    config = load_config("digits_demo", [f"run.folder={tmp_path}", "run.name=new"])
    run = create_run(config, "new")
    common = {
        "images": 9,
        "checkpoint": "c",
        "validation": "v",
        "weights": "ab",
        "train_index": "1",
        "validation_index": "2",
    }
    of_study = {**common, "backbones": {"online": {"linear_fast": {"top1": 0.5}}}}
    later = {
        **common,
        "backbones": {"online": {"linear": {"top1": 0.75}}, "momentum": {"linear": {"top1": 0.25}}},
    }
    (run.path / "study_eval.json").write_text(json.dumps(of_study))
    (run.path / "eval.json").write_text(json.dumps(later))
    [facts] = read_facts([run])
    assert facts.backbones == {
        "online": {"linear_fast": {"top1": 0.5}, "linear": {"top1": 0.75}},
        "momentum": {"linear": {"top1": 0.25}},
    }
    (run.path / "eval.json").write_text(json.dumps({**later, "weights": "cd"}))
    [facts] = read_facts([run])
    assert facts.backbones == of_study["backbones"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml"):
        read_facts([RunFolder(tmp_path)])
