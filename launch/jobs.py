"""Starting and resuming runs on this machine."""

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from data_pipelines.errors import UserError
from data_pipelines.shards import ShardSet
from data_pipelines.urls import Url
from launch.local import launch
from trainer.backbones import build_backbone
from trainer.checkpoint import CheckpointStore
from trainer.config import Config, load_config, override, refuse_changed_meaning
from trainer.optim import Schedule
from trainer.persistence import refuse_other_set
from trainer.recipes import find_recipe
from trainer.run import RunFolder, create_run, open_run, read_records
from trainer.run_lock import RunLock
from trainer.setup import TrainSet, open_train_set


def start_run(recipe: str, overrides: Sequence[str], nproc: int) -> int:
    """Make a run's folder and train it with N processes. Returns the exit code."""
    config = load_config(recipe, overrides)
    check(config, nproc)
    run = create_run(config, find_recipe(recipe).stem)
    print(f"run folder: {run.path}", flush=True)
    return _launch(run, nproc)


def resume_run(path: Path, overrides: Sequence[str], nproc: int | None) -> int:
    """Go on with a run; overrides may change what does not change its meaning. Returns the exit code.

    Args:
        path: the run's folder.
        overrides: `key=value` settings.
        nproc: processes; None: as many as the last attempt had.
    """
    run = open_run(path)
    before = run.read_config()
    after = override(before, overrides, where=str(run.config))
    refuse_changed_meaning(before, after)
    records = read_records(run.ledger)
    last = next((r["world_size"] for r in reversed(records) if r["event"] == "start"), 1)
    nproc = nproc or last
    check(after, nproc)
    if state := CheckpointStore(run.checkpoints).newest_state():
        refuse_other_set(state, open_train_set(after.data))
    if any(r["event"] == "end" and r["reason"] == "finished" for r in records):
        print(f"{run.path} is finished; judge it by `all4one eval {run.path}`")
        return 0
    if nproc != last and (after.method.model_dump().get("feature_scope"), after.parallel.batch_norm) != (
        "global",
        "global",
    ):
        print(
            f"warning: {nproc} processes instead of {last}: with method.feature_scope or parallel.batch_norm of each "
            "`rank` the loss depends on that number",
            file=sys.stderr,
        )
    if after != before:
        with RunLock(run.path):  # not under the hands of a process that trains it
            run.write_config(after)
    return _launch(run, nproc)


def check(config: Config, nproc: int) -> None:
    """Find what would stop the ranks, before they start and before a folder is made.

    Raises:
        UserError: sets that are missing, stale, too small or of other classes; a batch that does not divide;
            a backbone or a schedule that cannot be made; more processes than GPUs.
    """
    if torch.cuda.is_available() and nproc > torch.cuda.device_count():
        raise UserError(
            f"--nproc {nproc} asks for more processes than this machine has GPUs ({torch.cuda.device_count()})",
            fix=f"--nproc {torch.cuda.device_count()} or fewer",
        )
    train_set = open_train_set(config.data)
    _check_batch(config, nproc, len(train_set), config.data.train)
    if config.data.validation is not None:
        _check_validation(train_set, ShardSet.open(config.data.validation, config.data), nproc)
    steps = len(train_set) // config.train.global_batch
    total = config.train.epochs * steps
    Schedule.from_settings(config.optim, steps, min(total, config.train.max_steps or total))
    with torch.random.fork_rng(devices=[]):
        build_backbone(config.backbone, config.data.views[0].size)


def _check_batch(config: Config, nproc: int, samples: int, folder: Path | Url) -> None:
    batch, parts = config.train.global_batch, config.train.accumulation
    unit = nproc * parts
    if batch % unit or batch // unit < 2:
        below, above = batch // unit * unit, max(batch // unit + 1, 2) * unit
        near = f"{below} and {above}" if below >= 2 * unit and below != batch else str(above)
        raise UserError(
            f"train.global_batch ({batch}) does not give each of {nproc} processes x {parts} micro-batches the same "
            "number of rows, at least 2",
            fix=f"nearest that does: {near}",
        )
    if samples < batch:
        most = samples // unit * unit
        smaller = f"train.global_batch={most}, or " if most >= 2 * unit else ""
        raise UserError(
            f"the set has {samples} samples, fewer than one batch of {batch}",
            where=folder,
            fix=f"{smaller}a larger set",
        )


def _check_validation(train_set: TrainSet, validation_set: ShardSet, nproc: int) -> None:
    if validation_set.num_classes == 0:
        raise UserError("the set has no labels", where=validation_set.folder, fix="set data.validation=null")
    if train_set.num_classes and train_set.classes != validation_set.classes:
        raise UserError(
            f"the set has other classes than {train_set.folder}",
            where=validation_set.folder,
            fix="build both from the same classes, or set data.validation=null",
        )
    if len(validation_set) < nproc:
        raise UserError(
            f"the set has {len(validation_set)} samples for {nproc} processes", where=validation_set.folder
        )


def _launch(run: RunFolder, nproc: int) -> int:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    code = launch("launch.worker", [str(run.path)], nproc=nproc, logs=run.logs / f"{stamp}_{os.getpid()}")
    if code in (130, 143):
        print(f"go on with it: all4one resume {run.path}")
    elif code == 0:
        print(f"judge it: all4one eval {run.path}")
    return code
