import json
from pathlib import Path

import pytest

from data_pipelines.errors import UserError
from launch.commands.evaluate import evaluate, parse_ks, parse_rates, parse_shares
from launch.evaluate.results import Results

FACTS = {
    "source": "runs/a",
    "checkpoint": "runs/a/checkpoints/step_3",
    "weights": "ab",
    "train": "t",
    "validation": "v",
    "train_index": "12",
    "validation_index": "34",
    "images": 200,
}
KNN = {"top1": 0.5, "top5": 0.9, "k": 20}
RETRIEVAL = {"map": 0.25, "recall_at_1": 0.5, "recall_at_5": 0.75, "recall_at_10": 0.875, "queries": 200}


def written(path, facts=FACTS, **evaluated):
    results = Results(path, facts)
    for evaluator, result in evaluated.items():
        results.add("online", evaluator, result)
    results.write()
    return json.loads(path.read_text())["backbones"]


def test_other_evaluators_of_the_same_checkpoint_are_added(tmp_path, capsys):
    path = tmp_path / "eval.json"
    written(path, knn_20=KNN)
    assert written(path, {**FACTS, "source": "./runs/a", "train": "/data/t"}, retrieval=RETRIEVAL) == {
        "online": {"knn_20": KNN, "retrieval": RETRIEVAL}
    }
    assert written(path, knn_20={**KNN, "top1": 0.625})["online"]["knn_20"]["top1"] == 0.625
    assert capsys.readouterr() == ("", "")


def test_what_another_evaluation_has_written_meanwhile_stays(tmp_path, capsys):
    path = tmp_path / "eval.json"
    long = Results(path, FACTS)
    written(path, knn_20=KNN)
    long.add("online", "linear", {"top1": 0.75})
    long.write()
    assert json.loads(path.read_text())["backbones"] == {"online": {"knn_20": KNN, "linear": {"top1": 0.75}}}
    assert capsys.readouterr() == ("", "")
    written(path, {**FACTS, "weights": "cd"}, knn_20=KNN)
    for top1 in (0.5, 0.625):
        long.add("online", "linear", {"top1": top1})
        long.write()
    assert json.loads(path.read_text())["backbones"]["online"]["linear"] == {"top1": 0.625}
    assert (
        capsys.readouterr().err.count("differ in weights") == 2
    )  # theirs of ours, and ours of theirs, once each


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"weights": "cd"}, "weights"),
        ({"train_index": "13"}, "training set"),
        ({"weights": "cd", "validation_index": "35"}, "weights, validation set"),
    ],
)
def test_results_of_another_checkpoint_or_set_are_replaced_and_that_is_said(tmp_path, capsys, change, word):
    path = tmp_path / "eval.json"
    written(path, knn_20=KNN)
    assert written(path, {**FACTS, **change}, retrieval=RETRIEVAL) == {"online": {"retrieval": RETRIEVAL}}
    said = capsys.readouterr().err
    assert f"replacing {path}: its results (knn_20) differ in {word};" in said


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text("[1]")
    with pytest.raises(UserError, match="does not contain results"):
        Results(path, FACTS)
    assert path.read_text() == "[1]"


def test_tables_show_every_evaluator(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    results = Results(tmp_path / "eval.json", FACTS)
    results.add("online", "knn_20", {**KNN, "top1_bootstrap": (0.4325, 0.5675)})
    results.add("online", "retrieval", RETRIEVAL)
    results.add("online", "low_shot_1%", {"top1": 0.25, "top1_std": 0.0125, "top5": 1.0, "subsets": [{}] * 5})
    results.show()
    shown = capsys.readouterr().out
    for figure in (
        "50.00",
        "43.14 to 56.86",
        "43.25 to 56.75",
        "90.00",
        "25.00",
        "75.00",
        "87.50",
        "1.25 of 5 subsets",
    ):
        assert figure in shown


def test_a_table_shows_the_error_of_each_corruption_and_level(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    results = Results(tmp_path / "eval.json", FACTS)
    errors = {"fog": [0.1, 0.2, 0.3, 0.4, 0.5], "snow": [0.3, 0.3, 0.3, 0.3, 0.8]}
    facts = {"mean_corruption_error": 0.35, "clean_error": 0.0625, "relative_error": 0.2875}
    results.add("online", "robustness", {**facts, "errors": errors})
    results.show()
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in capsys.readouterr().out.splitlines()
    ]
    assert ["fog", "10.00", "20.00", "30.00", "40.00", "50.00", "30.00"] in rows
    assert ["snow", "30.00", "30.00", "30.00", "30.00", "80.00", "40.00"] in rows
    assert ["mean (clean 6.25)", "20.00", "25.00", "30.00", "35.00", "65.00", "35.00"] in rows


@pytest.mark.parametrize(("text", "ks"), [("20", (20,)), ("200, 10,20,10", (10, 20, 200))])
def test_numbers_of_neighbors(text, ks):
    assert parse_ks(text) == ks


@pytest.mark.parametrize("text", ["", "0", "a", "1,,2", "-1", "1.5"])
def test_no_numbers_of_neighbors(text):
    with pytest.raises(UserError, match="--knn-k"):
        parse_ks(text)


@pytest.mark.parametrize(("text", "shares"), [("1%", (0.01,)), ("10%, 0.5%,10%", (0.005, 0.1))])
def test_shares(text, shares):
    assert parse_shares(text, "--low-shot") == pytest.approx(shares)


def test_the_whole_set_is_a_share_where_it_is_asked_for():
    assert parse_shares("100%,1%", "--finetune", whole=True) == (0.01, 1)
    with pytest.raises(UserError, match=r"--finetune: '101%' is not a percentage .* up to 100%"):
        parse_shares("101%", "--finetune", whole=True)


@pytest.mark.parametrize("text", ["", "1", "0%", "100%", "1%,", "nan%", "x%", "-1%", "1%;2%"])
def test_no_shares(text):
    with pytest.raises(UserError, match="--low-shot"):
        parse_shares(text, "--low-shot")


def test_learning_rates():
    assert parse_rates("1,0.1, 30,1", "--linear-rates") == (0.1, 1, 30)
    assert parse_rates(None, "--linear-rates") is None


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "1,,2", "nan", "inf"])
def test_no_learning_rates(text):
    with pytest.raises(UserError, match="--finetune-rates"):
        parse_rates(text, "--finetune-rates")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"linear_epochs": 100}, "--linear-epochs: has no effect without --linear"),
        ({"knn": True, "epochs": 8, "linear_rates": "1"}, "--linear-epochs, --linear-rates: .* --linear"),
        ({"knn": True, "batch": 8}, "--batch: .* without --linear or --finetune"),
        (
            {"linear": True, "finetune_epochs": 8, "finetune_rates": "1"},
            "--finetune-rates: .* without --finetune",
        ),
        ({"finetune": "1%", "epochs": 8}, "--linear-epochs: .* without --linear"),
        ({"finetune": "101%"}, "--finetune: '101%' is not a percentage"),
        ({"finetune": "1%", "finetune_rates": "0"}, "--finetune-rates: .* is not a list of numbers"),
        ({"finetune": "100%", "batch": 8}, "not the folder of a run"),
        ({"low_shot_seeds": 5}, "--low-shot-seeds: .* without --low-shot"),
        ({"linear": True, "knn_k": "5"}, "--knn-k: .* without --knn"),
        ({"knn_k": "x"}, "is not a list of whole numbers"),
        ({"linear": True, "linear_epochs": 3, "linear_rates": "0"}, "is not a list of numbers"),
        ({"low_shot": "1%", "low_shot_seeds": 3}, "not the folder of a run"),
    ],
)
def test_an_option_of_an_evaluator_that_is_not_asked_is_refused(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        evaluate(Path(tmp_path / "no_such_run"), **given)
