"""Names of checkpoints: `RUN` is the newest one, `RUN@STEP` that of a step, and `RUN@best` the best one."""

from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.errors import UserError
from trainer.checkpoints.store import CheckpointStore
from trainer.runs.best_checkpoint import best_checkpoint, kept_metric
from trainer.runs.run_folder import RunFolder, open_run

BEST = "best"


class NamedCheckpoint(NamedTuple):
    """A checkpoint of a run."""

    run: RunFolder
    path: Path
    """Folder of the checkpoint."""
    state: dict[str, Any]
    """The JSON part of the checkpoint."""


def named_checkpoint(words: str) -> NamedCheckpoint:
    """Return the checkpoint that `RUN`, `RUN@STEP` or `RUN@best` names.

    Raises:
        UserError: there is no such run or no such checkpoint.
    """
    folder, wanted = _split(words)
    run = open_run(folder)
    store = CheckpointStore(run.checkpoints)
    newest_first = [(int(state["step"]), (path, state)) for path, state in store.states()]
    if not newest_first:
        store.require_readable()
        raise UserError("this run has no checkpoint", where=run.checkpoints)
    step = newest_first[0][0]
    if wanted:
        step = _best_step(run) if wanted == BEST else int(wanted)
    found = dict(reversed(newest_first))  # of two of one step the newer one
    if step not in found:
        steps = ", ".join(map(str, sorted(found)))
        raise UserError(
            f"there is no checkpoint of step {step}", where=run.checkpoints, fix=f"choose one of: {steps}"
        )
    return NamedCheckpoint(run, *found[step])


def checkpoint_path(source: Path) -> Path:
    """Return the folder of the checkpoint that `RUN@STEP` or `RUN@best` names, and any other path as it is.

    Raises:
        UserError: there is no such run or no such checkpoint.
    """
    return named_checkpoint(str(source)).path if _split(str(source))[1] else source


def _split(words: str) -> tuple[Path, str]:
    """Return the folder of a run and what follows the @. Empty: nothing does, or the @ belongs to an existing path."""
    folder, _, wanted = words.rpartition("@")
    if not folder or not (wanted.isdecimal() or wanted == BEST) or Path(words).exists():
        return Path(words), ""
    return Path(folder), wanted


def _best_step(run: RunFolder) -> int:
    best = best_checkpoint(run)
    if best is None and not kept_metric(run):
        raise UserError(
            "this run keeps no best checkpoint, because checkpoint.keep_best is empty",
            where=run.path,
            fix="name the checkpoint by its step, or train with checkpoint.keep_best=knn_online",
        )
    if best is None:
        raise UserError(
            f"no checkpoint of this run has been evaluated with {kept_metric(run)} yet",
            where=run.path,
            fix="name the checkpoint by its step",
        )
    return best.step
