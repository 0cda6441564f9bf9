"""What judges a study's run: its own kNN at the end of training, or a regression on its frozen features."""

import json
import subprocess
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.shards.shard_set import ShardSet
from launch.local.processes import module_command
from launch.studies.plan import Study
from trainer.config.schema import Config
from trainer.runs.components import open_train_set
from trainer.runs.run_folder import RunFolder, read_records

JUDGING = "launch.studies.evaluate_run"
"""Module that a job calls with a backbone and its run, once that is trained."""


def is_finished(run: RunFolder) -> bool:
    """Whether the run has come to its end; false where it was not begun."""
    return run.config.exists() and run.is_finished()


def require_judge(asked: Study, config: Config) -> None:
    """Raise a UserError where a run with these settings could not be judged at its end."""
    if config.data.validation is None:
        raise UserError("runs of a study need labeled images to be judged on", fix="set data.validation")
    if asked.judge == "knn" and config.eval.every_epochs == 0:
        raise UserError(
            "this study is judged by the kNN of training, which eval.every_epochs=0 leaves out",
            fix="set eval.every_epochs, or judge: linear_fast in the study",
        )


def require_labels(config: Config) -> None:
    """Raise a UserError where the training set of a run has no labels, or no index, for its judge to learn from."""
    train_set = open_train_set(config.data)
    if train_set.num_classes == 0 or not isinstance(train_set, ShardSet):
        raise UserError(
            "runs of a study are judged by classes that are learned from the training set, which has no labels, or is "
            "streamed",
            where=train_set.folder,
            fix="give data.train a labeled set of shards",
        )


def score(asked: Study, run: RunFolder) -> float | None:
    """Accuracy of a run, in percent; None where it is not finished or not judged yet."""
    if not is_finished(run):
        return None
    if asked.judge == "knn":
        judged = [r for r in read_records(run.metrics) if r["kind"] == "eval"]
        found = {name: judged[-1].get(f"knn_{name}") for name in ("momentum", "online")} if judged else {}
    elif _regression(run).exists():
        backbones = json.loads(_regression(run).read_text())["backbones"]
        found = {name: by["linear_fast"]["top1"] for name, by in backbones.items()}
    else:
        found = {}
    value = found.get(asked.backbone)
    value = found.get("online") if value is None else value
    return None if value is None else 100 * value


def judge_finished(asked: Study, run: RunFolder) -> bool:
    """Fit the regression of a run that is finished, where the study wants one and there is none. Returns whether that
    went well; where it did not, the evaluation has said why."""
    return not is_finished(run) or is_judged(asked, run) or fit_regression(run, asked.backbone)


def is_judged(asked: Study, run: RunFolder) -> bool:
    """Whether a run that is finished has what judges it; kNN comes with its training."""
    return asked.judge == "knn" or _regression(run).exists()


def fit_regression(run: RunFolder, backbone: str) -> bool:
    """Judge a backbone of a run by `linear_fast`. Returns whether that went well; results appear once they are whole.

    Args:
        run: a run that is finished.
        backbone: `online`; or `momentum`, for which all are judged, since not every method has an averaged copy.
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
    """A file of the study's own: eval.json may be of another checkpoint or another set."""
    return run.path / "study_eval.json"
