import json
from pathlib import Path
from typing import Any

import pytest
from noise_sets import make_set

from data_pipelines.errors import UserError
from launch.studies.plan import Study, runs_of
from launch.studies.scores import require_evaluator, require_labels, score
from launch.studies.study_report import report
from launch.studies.study_runs import StudyRuns
from trainer.config.schema import Config, parse
from trainer.runs.run_folder import RunFolder, create_run

GRID = {"method": {"all4one": {}, "nnclr": {"method": {"name": "nnclr"}}}}


def study(**changed: Any) -> Study:
    values = {"description": "a", "recipe": "digits_demo", "grid": GRID, "compare": "method", "seeds": [0]}
    return Study.model_validate(values | changed)


def finished(folder: Path, **knn: float) -> RunFolder:
    """A run at its end, with such records of two evaluations."""
    (config,) = runs_of(study(grid={"method": {"all4one": {}}}), folder, []).values()
    return finish(config, **knn)


def finish(config: Config, **knn: float) -> RunFolder:
    run = create_run(config, "run")
    run.ledger.write_text(json.dumps({"event": "end", "reason": "finished"}) + "\n")
    records = [{"kind": "eval", "step": 0, "knn_online": 0.1}, {"kind": "eval", "step": 9, **knn}]
    run.metrics.write_text("".join(json.dumps(r) + "\n" for r in records))
    return run


def test_the_last_knn_counts_and_the_online_one_where_there_is_no_other(tmp_path: Path) -> None:
    run = finished(tmp_path, knn_online=0.5, knn_momentum=0.0)
    assert score(study(), run) == 50
    assert score(study(backbone="momentum"), run) == 0
    alone = finished(tmp_path / "b", knn_online=0.5)
    assert score(study(backbone="momentum"), alone) == 50


def test_the_online_classifier_counts_if_a_study_asks_for_it(tmp_path: Path) -> None:
    run = finished(tmp_path, knn_online=0.5, online_val_top1=0.625)
    assert score(study(evaluator="online_classifier"), run) == 62.5
    assert score(study(evaluator="online_classifier", backbone="momentum"), run) == 62.5
    assert score(study(evaluator="online_classifier"), finished(tmp_path / "old", knn_online=0.5)) is None


def test_only_the_studys_own_regression_counts(tmp_path: Path) -> None:
    run = finished(tmp_path, knn_online=0.5)
    of_another = {"backbones": {"online": {"linear_fast": {"top1": 0.2}}}}
    (run.path / "eval.json").write_text(json.dumps(of_another))
    assert score(study(evaluator="linear_fast"), run) is None
    (run.path / "study_eval.json").write_text(json.dumps(of_another))
    assert score(study(evaluator="linear_fast"), run) == 20


@pytest.mark.parametrize(
    ("evaluator", "settings", "said"),
    [
        ("knn", {"data": {"validation": None}}, "labeled images"),
        ("knn", {"data": {"validation": "v"}, "eval": {"every_epochs": 0}}, "disables"),
        ("online_classifier", {"data": {"validation": "v"}, "eval": {"every_epochs": 0}}, "disables"),
    ],
)
def test_runs_that_nobody_could_evaluate_are_refused(
    evaluator: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        require_evaluator(study(evaluator=evaluator), parse(settings, where="here"))


@pytest.mark.parametrize("labeled", [True, False])
def test_a_training_set_without_labels_is_refused_before_hours_of_training(
    tmp_path: Path, labeled: bool
) -> None:
    folder = make_set(tmp_path / "set", classes=("a", "b") if labeled else ())
    config = parse({"data": {"train": str(folder), "validation": str(folder)}}, where="here")
    if labeled:
        require_labels(config)
        return
    with pytest.raises(UserError, match="has no labels"):
        require_labels(config)


def test_half_a_study_is_json_that_everybody_reads(tmp_path: Path) -> None:
    runs = StudyRuns(study(), tmp_path / "out", [])
    for config in runs.configs.values():
        finish(config, knn_online=0.5)
    report(runs)
    text = (tmp_path / "out" / "study.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["rows"][0]["score"] == {"mean": 50.0, "half": None, "samples": 1}
    assert found["rows"][0]["difference"]["mean"] == 0
