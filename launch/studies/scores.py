"""Scores of a study's runs: those of the last evaluation during training, or logistic regression on frozen features."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.shards.shard_set import ShardSet
from launch.local.rank_processes import module_command
from launch.studies.plan import Cell, Study
from trainer.config.schema import Config
from trainer.runs.components import open_train_set
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder

EVALUATE_RUN = "launch.studies.evaluate_run"
"""The module that a job runs with a backbone and its run, after training."""
OF_TRAINING = {
    "knn": {"online": "knn_online", "momentum": "knn_momentum"},
    "online_classifier": {"online": "online_val_top1"},
}
"""Evaluators that are part of the training, with the metric of each backbone."""


def is_finished(run: RunFolder) -> bool:
    """Return whether the run is finished. False if it was not started."""
    return run.config.exists() and run.is_finished()


def require_evaluator(asked: Study, config: Config) -> None:
    """Raise a UserError if a run with these settings could not be evaluated at its end."""
    if config.data.validation is None:
        raise UserError("runs of a study need labeled images for evaluation", fix="set data.validation")
    if asked.evaluator in OF_TRAINING and config.eval.every_epochs == 0:
        raise UserError(
            "this study uses the evaluations during training, which eval.every_epochs=0 disables",
            fix="set eval.every_epochs above 0, or evaluator: linear_fast in the study",
        )


def require_labels(config: Config) -> None:
    """Raise a UserError if the training set of a run has no labels or no index, which its evaluator needs."""
    train_set = open_train_set(config.data)
    if train_set.num_classes == 0 or not isinstance(train_set, ShardSet):
        raise UserError(
            "runs of a study are evaluated by classifying images, but the training set has no labels or is "
            "streamed",
            where=train_set.folder,
            fix="set data.train to a labeled dataset of shards with an index",
        )


def score(asked: Study, run: RunFolder) -> float | None:
    """Return the accuracy of a run in percent, or None if it is not finished or not evaluated yet."""
    if not is_finished(run):
        return None
    if asked.evaluator in OF_TRAINING:
        evaluated = [r for r in read_records(run.metrics) if r.get("kind") == "eval"]
        newest = evaluated[-1] if evaluated else {}
        names = OF_TRAINING[asked.evaluator]
        found = {backbone: newest.get(name) for backbone, name in names.items()}
    elif _regression(run).exists():
        backbones = json.loads(_regression(run).read_text())["backbones"]
        found = {name: by["linear_fast"]["top1"] for name, by in backbones.items()}
    else:
        found = {}
    value = found.get(asked.backbone)
    value = found.get("online") if value is None else value
    return None if value is None else 100 * value


def scores_of(asked: Study, runs: Mapping[Cell, RunFolder]) -> dict[Cell, float]:
    """Return the accuracies of all evaluated runs, in percent."""
    found = {cell: score(asked, run) for cell, run in runs.items()}
    return {cell: value for cell, value in found.items() if value is not None}


def evaluate_finished(asked: Study, run: RunFolder) -> bool:
    """Fit the missing regression of a finished run if the study needs it. Return whether that succeeded.

    If it failed, the evaluation has printed the reason.
    """
    return not is_finished(run) or is_evaluated(asked, run) or fit_regression(run, asked.backbone)


def is_evaluated(asked: Study, run: RunFolder) -> bool:
    """Return whether a finished run has been evaluated."""
    return asked.evaluator in OF_TRAINING or _regression(run).exists()


def fit_regression(run: RunFolder, backbone: str) -> bool:
    """Evaluate a backbone of a run with `linear_fast`. Return whether that succeeded.

    Results are written only when they are complete.

    Args:
        run: a finished run.
        backbone: `online`, or `momentum`. For `momentum` all backbones are evaluated, because not every method has one.
    """
    path = _regression(run)
    begun = path.with_suffix(".part.json")
    begun.unlink(missing_ok=True)
    alone = ["--backbone", backbone] if backbone == "online" else []
    command = ["eval", str(run.path), "--linear-fast", "--out", str(begun), *alone]
    done = subprocess.run(module_command("launch.cli", *command), stdout=subprocess.DEVNULL, check=False)
    if done.returncode == 0:
        begun.replace(path)
    return done.returncode == 0


def _regression(run: RunFolder) -> Path:
    """Return the study's own result file, because eval.json may belong to another checkpoint or dataset."""
    return run.path / "study_eval.json"
