"""What a rank does if another one is lost: one of those that are left saves the last finished step.

At ZeRO stage 0 every rank has the whole state, so the loss of a rank then costs no step.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.log import LOGGER
from trainer.checkpoint_manager import CheckpointManager
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.host_copies import clone_to_host
from trainer.checkpoints.store import CheckpointStore
from trainer.runs.components import AttemptContext, TrainingComponents
from trainer.runs.hang_watch import HangWatch
from trainer.runs.passed_lock import passed_lock
from trainer.runs.saved_progress import SURVIVED
from trainer.runs.supervisor import Supervisor


def save_as_survivor(
    attempt: AttemptContext,
    parts: TrainingComponents,
    checkpoints: CheckpointManager,
    watch: HangWatch,
    supervisor: Supervisor,
    *,
    step: int,
    loaded_step: int,
    record_at: Callable[[int], dict[str, Any] | None],
) -> None:
    """Save the last finished step if the supervisor of the ranks names this one for it.

    Args:
        attempt: the attempt of this rank.
        parts: components of the run.
        checkpoints: checkpoints of the run.
        watch: watches this rank.
        supervisor: the process that has started this rank.
        step: number of steps that the host has run. All waits for the other ranks have ended.
        loaded_step: the step whose checkpoint was loaded last.
        record_at: returns the last training record up to a step. Rank 0 may have been lost before it wrote it.

    Raises:
        UserError: the checkpoint could not be written.
    """
    watch.wait_if_stalled()  # this process ends within seconds
    watch.doing("hearing which rank saves")
    unfinished = parts.engine.undo_unfinished()
    step -= unfinished or 0
    can_save = unfinished is not None and checkpoints.may_save and step != loaded_step
    if supervisor.must_save(step if can_save else None):
        watch.doing("saving after the loss of a rank")
        path = _saved(attempt, parts, checkpoints, step, record_at(step))
        attempt.run.note(SURVIVED, attempt=attempt.number, step=step, rank=attempt.process.rank)
        LOGGER.warning("rank %d has saved %s, because another rank is lost", attempt.process.rank, path.name)


def _saved(
    attempt: AttemptContext,
    parts: TrainingComponents,
    checkpoints: CheckpointManager,
    step: int,
    record: dict[str, Any] | None,
) -> Path:
    """Return the checkpoint of a step, which is written if rank 0 has not written it before."""
    checkpoints.wait()
    lock = passed_lock(attempt.run.path)
    assert lock is not None
    store = CheckpointStore(
        attempt.run.checkpoints,
        attempt=attempt.number,
        keep_last=sys.maxsize,  # the next attempt removes what its rules do not keep
        require_lock=lock.require,
    )
    for path, state in store.states():
        if (state["step"], state["attempt"]) == (step, attempt.number):
            return path
    model, optimizer = parts.engine.state()
    state = checkpoints.state(step) | {"record": record}
    return store.write(Snapshot(step, clone_to_host(model), clone_to_host(optimizer), state))
