"""Starting and resuming runs on this machine."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from data_pipelines.errors import UserError
from data_pipelines.shards import ShardSet
from launch.local import launch
from trainer.checkpoint import CheckpointStore
from trainer.config import Config, dump, load_config, parse, refuse_changed_meaning, set_value
from trainer.persistence import refuse_other_set
from trainer.recipes import find_recipe
from trainer.run import RunFolder, create_run, open_run, read_records


def start_run(recipe: str, overrides: Sequence[str], nproc: int) -> int:
    """Make a run's folder and train it with N processes. Returns the exit code."""
    config = load_config(recipe, overrides)
    check_data(config, nproc)
    run = create_run(config, find_recipe(recipe).stem)
    print(f"run folder: {run.path}", flush=True)
    return _launch(run, nproc)


def resume_run(path: Path, overrides: Sequence[str], nproc: int) -> int:
    """Go on with a run; overrides may change what does not change its meaning. Returns the exit code."""
    run = open_run(path)
    before = run.read_config()
    values = dump(before)
    for override in overrides:
        set_value(values, override)
    after = parse(values, where=f"{run.config} with {' '.join(overrides)}")
    refuse_changed_meaning(before, after)
    check_data(after, nproc)
    if state := CheckpointStore(run.checkpoints).latest_state():
        refuse_other_set(state, ShardSet.open(after.data.train))
    if any(r["event"] == "end" and r["reason"] == "finished" for r in read_records(run.ledger)):
        print(f"{run.path} is finished; judge it by `all4one eval {run.path}`")
        return 0
    if after != before:
        run.write_config(after)
    return _launch(run, nproc)


def check_data(config: Config, nproc: int) -> None:
    """Find what would stop the ranks, before they start.

    Raises:
        UserError: a missing, foreign or stale index; too few samples; a batch that does not divide.
    """
    if torch.cuda.is_available() and nproc > torch.cuda.device_count():
        raise UserError(
            f"--nproc {nproc} asks for more processes than this machine has GPUs ({torch.cuda.device_count()})",
            fix=f"--nproc {torch.cuda.device_count()} or fewer",
        )
    train_set = ShardSet.open(config.data.train)
    batch, parts = config.train.global_batch, config.train.accumulation
    unit = nproc * parts
    if batch % unit:
        below, above = batch // unit * unit, (batch // unit + 1) * unit
        raise UserError(
            f"train.global_batch ({batch}) does not divide over {nproc} processes x {parts} micro-batches",
            fix=f"nearest that does: {f'{below} and ' if below else ''}{above}",
        )
    if batch // unit < 2 and config.parallel.batch_norm == "rank":
        raise UserError("batch norm of one row a process has no spread", fix="raise train.global_batch")
    if len(train_set) < batch:
        raise UserError(
            f"the set has {len(train_set)} samples, fewer than one batch of {batch}", where=config.data.train,
            fix=f"train.global_batch={len(train_set) // unit * unit or unit}, or a larger set",
        )  # fmt: skip
    if config.data.validation is not None:
        validation = ShardSet.open(config.data.validation)
        if len(validation) < nproc:
            raise UserError(
                f"the set has {len(validation)} samples for {nproc} processes", where=config.data.validation
            )


def _launch(run: RunFolder, nproc: int) -> int:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    code = launch("launch.worker", [str(run.path)], nproc=nproc, logs=run.logs / f"{stamp}_{os.getpid()}")
    if code in (130, 143):
        print(f"go on with it: all4one resume {run.path}")
    elif code == 0:
        print(f"judge it: all4one eval {run.path}")
    return code
