"""Starts and resumes runs on this machine."""

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.local.end_notices import tell_end
from launch.local.preflight import divides, problems, problems_of_memory, refuse, require_devices
from launch.local.processes import launch
from launch.local.recovery import RunRecovery
from launch.local.taken_state import FirstState
from launch.messages import print_error
from trainer.checkpoints.store import CheckpointStore
from trainer.config.recipes import find_recipe
from trainer.config.resume_compat import refuse_changed_training
from trainer.config.schema import Config, load_config, override
from trainer.runs.components import open_train_set, refuse_other_set
from trainer.runs.end_reasons import STOPPED, EndReason
from trainer.runs.hang_watch import stall_of
from trainer.runs.records import read_ledger, read_records
from trainer.runs.run_folder import RunFolder, create_run, open_run
from trainer.runs.run_lock import RunLock
from trainer.runs.saved_progress import FROM_SCRATCH, refuse_lost_checkpoints

ON_STOP = "stopping after this step or the next. The third signal ends the run at once, without a checkpoint"


def start_run(
    recipe: str | Path, overrides: Sequence[str], taken: FirstState | None = None, *, nproc: int
) -> int:
    """Create a run's folder and train the run with N processes. Returns the exit code."""
    return train_run(new_run(recipe, overrides, nproc, taken), nproc)


def new_run(
    recipe: str | Path, overrides: Sequence[str], nproc: int, taken: FirstState | None = None
) -> RunFolder:
    """Create the folder of a run that N processes will train.

    Args:
        recipe: name of a shipped recipe, or path of a YAML file.
        overrides: `key=value` settings.
        nproc: number of processes.
        taken: state of another run that the run begins with. None: it begins at step 0.

    Raises:
        UserError: the configuration is not valid, something would stop the run, the run cannot begin with the state,
            or the folder is not empty.
    """
    config = load_config(recipe, overrides)
    check(config, nproc, new_runs=1)
    if taken is not None:
        taken.refuse_unfit(config)
    run = create_run(config, find_recipe(recipe).stem)
    print(f"run folder: {run.path}", flush=True)
    if taken is not None:
        try:
            taken.put_into(run, config)
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)  # so that the same command can be given again
            raise
    return run


def resume_run(path: Path, overrides: Sequence[str], nproc: int | None, *, from_scratch: bool = False) -> int:
    """Resume a run. Overrides may change only settings that do not affect what it learns. Returns the exit code.

    Args:
        path: the run's folder.
        overrides: `key=value` settings.
        nproc: number of processes. None: as many as the last attempt had.
        from_scratch: train again from step 0, because the checkpoints are lost.
    """
    run = open_run(path)
    config = settings_on_resume(run, overrides)
    nproc = nproc or last_world_size(run) or 1
    check(config, nproc, new_runs=0)
    refuse_other_train_set(run, config)
    if run.is_finished():
        print(f"{run.path} is finished. {next_command(run)}")
        return 0
    require_checkpoints(run, config, from_scratch=from_scratch)
    warn_of_other_world_size(run, config, nproc)
    keep_settings(run, config)
    return train_run(run, nproc)


def check(config: Config, nproc: int, *, new_runs: int) -> None:
    """Find problems that would stop the ranks of this machine, before they start and before a folder is created.

    Raises:
        UserError: everything that `launch.local.preflight` finds, or more processes than GPUs.
    """
    require_devices(nproc)
    refuse([*problems(config, nproc, new_runs=new_runs), *problems_of_memory(config, nproc)])


def settings_on_resume(run: RunFolder, overrides: Sequence[str]) -> Config:
    """Return a run's settings with overrides. Raises a UserError if these would change what it learns."""
    before = run.read_config()
    after = override(before, overrides, where=str(run.config))
    refuse_changed_training(before.with_absolute_paths(), after.with_absolute_paths())
    return after


def keep_settings(run: RunFolder, config: Config) -> None:
    """Write a run's settings to its folder if they have changed."""
    # Only paths of data may change on resume. Others are part of the fingerprint of the checkpoints.
    config = config.model_copy(update={"data": config.data.with_absolute_paths()})
    if config != run.read_config():
        with RunLock(run.path):  # not while another process trains the run
            run.write_config(config)


def require_checkpoints(run: RunFolder, config: Config, *, from_scratch: bool) -> None:
    """Raise a UserError if the run has lost its checkpoints, unless the user asked to train it again from step 0.

    Args:
        run: the run to resume.
        config: its settings.
        from_scratch: whether the user gave --from-scratch. The ledger then records it.

    Raises:
        UserError: the checkpoints are lost, or they may be whole and cannot be read at present.
    """
    store = CheckpointStore(run.checkpoints)
    has_some = store.newest_state() is not None
    if not has_some:
        store.require_readable()
    if not from_scratch:
        if not has_some:
            # Without the training set, the steps of an epoch are not known. The ranks check again with them.
            refuse_lost_checkpoints(run, checkpoint_every=config.checkpoint.every_steps)
        return
    if has_some or run.is_finished():
        raise UserError(
            "--from-scratch is for a run that has lost its checkpoints, and this one "
            + ("has some" if has_some else "is finished"),
            where=run.path,
            fix="resume without --from-scratch, or train a new run with another run.name",
        )
    with RunLock(run.path):  # not while another process trains the run
        run.note(FROM_SCRATCH)


def refuse_other_train_set(run: RunFolder, config: Config) -> None:
    """Raise a UserError if the newest checkpoint was made with another training set than `data.train` names."""
    if state := CheckpointStore(run.checkpoints).newest_state():
        refuse_other_set(state, open_train_set(config.data))


def last_world_size(run: RunFolder) -> int | None:
    """Return the number of processes of the last attempt. None: there was no attempt."""
    records = read_records(run.ledger)
    return next(
        (r["world_size"] for r in reversed(records) if r.get("event") == "start" and "world_size" in r), None
    )


def warn_of_other_world_size(run: RunFolder, config: Config, ranks: int) -> None:
    """Warn if the number of processes has changed and the loss depends on it."""
    last, by_rank = last_world_size(run), depends_on_ranks(config)
    if last not in (None, ranks) and by_rank:
        print(
            f"warning: the run had {last} ranks and now gets {ranks}. "
            "Its loss depends on the number of ranks because of " + ", ".join(by_rank),
            file=sys.stderr,
        )


def depends_on_ranks(config: Config) -> list[str]:
    """Return, as `key=value`, the settings that make the loss depend on the number of processes."""
    method, parallel = config.method.model_dump(), config.parallel
    scope = method.get("feature_scope") if method.get("feature_weight", 1) else None
    settings = {
        "method.feature_scope": scope == "rank" and scope,
        "method.transformer_dropout": method.get("centroid_weight") and method.get("transformer_dropout"),
        "parallel.batch_norm": parallel.batch_norm == "rank" and "rank",
        "parallel.batch_norm_group": parallel.batch_norm == "global" and parallel.batch_norm_group,
    }
    return [f"{key}={value}" for key, value in settings.items() if value]


def may_shrink(config: Config, ranks: int) -> bool:
    """Return whether a run that has lost a node may go on with a smaller number of ranks (`slurm.shrink`)."""
    wanted = config.slurm.shrink
    return divides(config, ranks) and (not depends_on_ranks(config) if wanted is None else wanted)


def next_command(run: RunFolder) -> str:
    """Return what to do with a finished run. `eval` needs labeled sets for training and validation."""
    state = CheckpointStore(run.checkpoints).newest_state() or {}
    if run.read_config().data.validation is None or state.get("classes") == 0:
        return f"Export its backbone with: all4one export {quoted(run.path)}"
    return f"Evaluate it with: all4one eval {quoted(run.path)}"


def train_run(run: RunFolder, nproc: int) -> int:
    """Train a run from its current state with N processes. Returns the exit code. If it is not 0, a message has been
    printed."""
    code = _train(run, nproc)
    tell_end(run, code)
    return code


def _train(run: RunFolder, nproc: int) -> int:
    """Train a run, and print what to do then. Returns the exit code."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    first, logs = run.attempts() + 1, run.logs / f"{stamp}_{os.getpid()}"
    with RunLock(run.path, attempt=first) as lock:
        code = launch(
            "launch.local.worker",
            [str(run.path), str(logs)],
            nproc=nproc,
            logs=logs,
            on_stop=ON_STOP,
            recovery=RunRecovery(run, lock),
        )
    if code in STOPPED:
        print(f"resume it with: all4one resume {quoted(run.path)}")
    elif code == 0 and not run.is_finished():
        print_error(
            UserError(
                "the processes ended without an error, but the run is not finished",
                where=run.ledger,
                fix=f"read their output in {logs}, then run: all4one resume {quoted(run.path)}",
            )
        )
        return 1
    elif code == 0:
        print(next_command(run))
    elif hung := _stall(run, first, nproc, logs):
        saved = CheckpointStore(run.checkpoints).newest_step()
        if not _has_stalled(run, hung.attempt):
            # Hung ranks cannot record their end.
            run.note("end", attempt=hung.attempt, reason=EndReason.STALLED, message=hung.where, saved=saved)
        print_error(
            UserError(
                f"the run stalled: {hung.where}",
                where=run.logs,
                fix=f"read the ranks' stacks there, then run: all4one resume {quoted(run.path)}",
            )
        )
    return code


def _has_stalled(run: RunFolder, attempt: int) -> bool:
    """Whether the ledger tells that an attempt stalled."""
    ends = (r for r in read_ledger(run.ledger) if r["event"] == "end" and r["attempt"] == attempt)
    return any(r["reason"] == EndReason.STALLED for r in ends)


class _Stall(NamedTuple):
    """A stall of the ranks."""

    attempt: int
    where: str


def _stall(run: RunFolder, first: int, nproc: int, logs: Path) -> _Stall | None:
    """Return the stall of the newest attempt since attempt `first`. None: it did not stall."""
    newest = run.attempts()
    # Processes that hung before they had met belong to an attempt that has no record.
    for attempt in (newest + 1, newest):
        if attempt >= first and (where := stall_of(run, attempt, nproc, logs)):
            return _Stall(attempt, where)
    return None
