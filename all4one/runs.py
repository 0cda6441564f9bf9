"""Training and evaluation: the commands `train`, `resume` and `eval` as functions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from all4one.errors import RunFailed, RunInterrupted
from data_pipelines.errors import UserError

if TYPE_CHECKING:
    from trainer.config.schema import Config
    from trainer.runs.run_folder import RunFolder

KNN_NEIGHBORS = 20
"""As many as `all4one eval` asks by default."""


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> "Config":
    """Resolve a recipe.

    Args:
        recipe: the name of a shipped recipe, or the path of a YAML file.
        overrides: settings as `"key=value"`, for example `["optim.lr=0.5"]`.

    Returns:
        Every setting of the recipe as an immutable pydantic model, for example `config.train.global_batch`.

    Raises:
        UserError: the recipe does not exist or a setting is not valid. All problems are listed at once.
    """
    from trainer.config import schema

    return schema.load_config(recipe, _checked(overrides))


def train(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    from_run: str | Path | None = None,
    nproc: int = 1,
) -> Path:
    """Train a new run on this machine and wait until it ends.

    The run trains in processes of its own, as with `all4one train`. Rank 0 prints to this process's output. Ctrl-C
    saves a checkpoint and raises `RunInterrupted`.

    Args:
        recipe: the name of a shipped recipe, or the path of a YAML file. None: the settings of `from_run`.
        overrides: settings as `"key=value"`. `run.folder` and `run.name` choose the run's folder.
        from_run: a run whose whole state the new run begins with. `RUN` is its newest checkpoint, `RUN@STEP` that of
            a step, and `RUN@best` the best one. Schedule and length may change. None: the run begins at step 0.
        nproc: number of processes. The global batch is divided among them.

    Returns:
        The run's folder, `runs/RECIPE` unless the overrides choose another. Without a recipe it is `RUN_from_STEP`
            beside the other run.

    Raises:
        UserError: a setting is not valid, something would stop the run, the folder is not empty, there is no such
            checkpoint, or the new run cannot begin with it.
        RunInterrupted: a signal stopped the run.
        RunFailed: a process of the run failed.
    """
    from launch.local.runs import new_run, train_run
    from launch.local.taken_state import new_run_settings

    _require_processes(nproc)
    given = _checked(overrides)
    if recipe is None and from_run is None:
        raise UserError("there is no recipe", where="train", fix="give a recipe, or a run with from_run")
    source = None if from_run is None else str(from_run)
    named, given, taken = new_run_settings(None if recipe is None else str(recipe), given, source)
    run = new_run(named, given, nproc, taken)
    _require_success(run, train_run(run, nproc), noted_before=0)
    return run.path


def resume(run: str | Path, overrides: Sequence[str] = (), *, nproc: int | None = None) -> Path:
    """Continue a run from its newest checkpoint that passes verification, and wait until it ends.

    A finished run stays as it is.

    Args:
        run: the run's folder.
        overrides: settings as `"key=value"` that do not change what is learned, for example `checkpoint.keep_last`.
        nproc: number of processes. None: as many as the last attempt had.

    Returns:
        The run's folder.

    Raises:
        UserError: this is not a run's folder, an override would change what is learned, or another process trains
            the run.
        RunInterrupted: a signal stopped the run.
        RunFailed: a process of the run failed.
    """
    from launch.local.runs import resume_run
    from trainer.runs.records import read_records
    from trainer.runs.run_folder import open_run

    if nproc is not None:
        _require_processes(nproc)
    folder = open_run(Path(run))
    noted = len(read_records(folder.ledger))
    code = resume_run(folder.path, _checked(overrides), nproc)
    _require_success(folder, code, noted_before=noted)
    return folder.path


def evaluate(
    run: str | Path,
    *,
    knn: bool = True,
    retrieval: bool = False,
    linear_fast: bool = False,
    linear: bool = False,
    backbone: str | None = None,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    out: str | Path | None = None,
    nproc: int = 1,
) -> dict[str, Any]:
    """Measure how well the features of frozen backbones separate the classes.

    The results are also written to `eval.json`. `all4one eval` has more evaluators and options.

    Args:
        run: a run's folder, a checkpoint's folder, or a file that `all4one export` wrote as safetensors. `RUN@STEP` and
            `RUN@best` name a checkpoint of a run, and `hf://ORG/NAME` a model on the Hugging Face hub.
        knn: weighted vote of 20 nearest neighbors.
        retrieval: mAP and recall of validation images among each other.
        linear_fast: logistic regression on features that are computed once.
        linear: the published protocol. It trains linear classifiers with SGD for 100 epochs.
        backbone: `online` or `momentum`. None: every backbone of the run.
        train: labeled shards to learn from. None: the run's own.
        validation: labeled shards to measure on. None: the run's own.
        out: file for the results. None: `eval.json` in a run's folder, or `NAME.eval.json` beside a checkpoint or file.
        nproc: number of processes.

    Returns:
        What the file holds. `result["backbones"]["online"]["knn_20"]["top1"]` is a fraction between 0 and 1. Earlier
            results of the same weights and sets are included.

    Raises:
        UserError: no evaluator is asked for, the run has no checkpoint, or the sets are missing, unlabeled or of
            different classes.
    """
    import torch

    from launch.evaluate import evaluation
    from trainer.evaluation.evaluators import Evaluators
    from trainer.evaluation.linear_protocol import LinearProtocol

    _require_processes(nproc)
    if not (knn or retrieval or linear_fast or linear):
        raise UserError("no evaluator is asked for", where="evaluate", fix="set knn=True, or another one")
    evaluators = Evaluators(
        knn=(KNN_NEIGHBORS,) if knn else (),
        retrieval=retrieval,
        linear_fast=linear_fast,
        linear=LinearProtocol() if linear else None,
    )
    job = evaluation.EvalJob(
        source=Path(run),
        evaluators=evaluators,
        backbone=backbone,
        train=_text(train),
        validation=_text(validation),
        out=None if out is None else Path(out),
    )
    threads = torch.get_num_threads()
    try:
        code = evaluation.evaluate(job, nproc)
    finally:
        torch.set_num_threads(threads)  # which an evaluation raises to all cores
    if code:
        raise UserError(
            f"the evaluation ended with exit code {code}",
            where=job.source_name,
            fix=f"see its output and the logs in {job.place.parent / 'logs'}",
        )
    found: dict[str, Any] = json.loads(job.place.read_text())
    return found


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _checked(overrides: Sequence[str]) -> list[str]:
    given = [overrides] if isinstance(overrides, str | Mapping) else list(overrides)
    for override in given:
        if override is overrides or not isinstance(override, str):
            raise UserError(
                f"is not a list of texts: {override!r}",
                where="overrides",
                fix='give each setting as one text in a list: ["optim.lr=0.5"]',
            )
    return given


def _require_processes(nproc: int) -> None:
    if nproc < 1:
        raise UserError(f"a run needs at least one process, not {nproc}", where="nproc", fix="set nproc=1")


def _require_success(run: "RunFolder", code: int, *, noted_before: int) -> None:
    """Raise where an attempt ended with another code than 0.

    Args:
        run: the run.
        code: exit code of the attempt.
        noted_before: records that the ledger had when the attempt began.
    """
    from trainer.runs.end_reasons import REASONS
    from trainer.runs.records import read_records

    if code == 0:
        return
    fix = f"all4one.resume({str(run.path)!r})"
    if code in REASONS:
        what = f"a signal stopped the run ({REASONS[code]})"
        raise RunInterrupted(what, folder=run.path, exit_code=code, fix=fix)
    messages = [r["message"] for r in read_records(run.ledger)[noted_before:] if "message" in r]
    reason = f": {messages[-1]}" if messages else ""
    raise RunFailed(
        f"the run failed with exit code {code}{reason}",
        folder=run.path,
        exit_code=code,
        fix=f"see its output and the logs in {run.logs}, then {fix}",
    )
