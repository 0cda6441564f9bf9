"""What a rank does if another one is lost: one of those that are left saves the newest step of which all is left.

At ZeRO stage 0 every rank has the whole state, so the loss of a rank then costs no step. At stages 1 and 2 the ranks
that are left join the copies that they keep for each other in host memory (`trainer/runs/neighbor_copies.py`).
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from trainer.checkpoint_manager import CheckpointManager
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.host_copies import clone_to_host
from trainer.checkpoints.packed_tensors import PackedTensors
from trainer.checkpoints.shard_files import ShardFiles
from trainer.checkpoints.store import CheckpointStore
from trainer.runs.components import AttemptContext, TrainingComponents
from trainer.runs.end_reasons import ExitCode
from trainer.runs.hang_watch import HangWatch
from trainer.runs.neighbor_copies import NeighborCopies
from trainer.runs.passed_lock import passed_lock
from trainer.runs.saved_progress import OF_COPIES, OF_RANK, SURVIVED
from trainer.runs.supervisor import Holdings, Supervisor, Task

STUCK_SECONDS = 1.0
"""Time that the main thread has to notice the loss of a rank after the supervisor has told of it."""


def save_as_survivor(
    attempt: AttemptContext,
    parts: TrainingComponents,
    checkpoints: CheckpointManager,
    copies: NeighborCopies,
    watch: HangWatch,
    supervisor: Supervisor,
    *,
    step: int,
    loaded_step: int,
    record_at: Callable[[int], dict[str, Any] | None],
) -> None:
    """Do what the supervisor of the ranks says: save a step, hand over copies, or nothing.

    Args:
        attempt: the attempt of this rank.
        parts: components of the run.
        checkpoints: checkpoints of the run.
        copies: what this rank keeps in host memory.
        watch: watches this rank.
        supervisor: the process that has started this rank.
        step: number of steps that the host has run. All waits for the other ranks have ended.
        loaded_step: the step whose checkpoint was loaded last.
        record_at: returns the last training record up to a step. Rank 0 may have been lost before it wrote it.

    Raises:
        UserError: a file could not be written, or a rank that is lost too has not handed over its copies.
    """
    watch.wait_if_stalled()  # this process ends within seconds
    watch.doing("hearing which rank saves")
    unfinished = parts.engine.undo_unfinished()
    step -= unfinished or 0
    can_save = unfinished is not None and checkpoints.may_save and step != loaded_step
    task = supervisor.report(Holdings(step if can_save else None, copies.held()))
    watch.doing("saving after the loss of a rank")
    if task.saves and task.copy is None:
        lock = passed_lock(attempt.run.path)
        assert lock is not None
        _Saving(attempt, parts, checkpoints, copies, lock.require).save_own_state(step, record_at(step))
    else:
        _do_with_copies(task, attempt, parts, checkpoints, copies)


def use_copies_if_stuck(
    attempt: AttemptContext,
    parts: TrainingComponents,
    checkpoints: CheckpointManager,
    copies: NeighborCopies,
    supervisor: Supervisor,
) -> None:
    """Do what `save_as_survivor` does with copies, and end this process, if its main thread does not notice the loss.

    A thread calls this once the supervisor has told of the loss. The main thread may wait for ever for the rest of a
    message, and nothing can end this wait: gloo overlooks the loss of a rank in the middle of a large message.
    """
    time.sleep(STUCK_SECONDS)
    copies.lock.acquire()
    task = supervisor.report_first(Holdings(None, held)) if (held := copies.held()) else None
    if task is None:
        copies.lock.release()
        return
    LOGGER.warning("rank %d still waits for the rank that is lost. Its copies are used", attempt.process.rank)
    try:
        _do_with_copies(task, attempt, parts, checkpoints, copies)
        checkpoints.wait()
    except UserError as error:
        LOGGER.error("%s", error)
    finally:
        os._exit(ExitCode.LOST_PEER)


def _do_with_copies(
    task: Task,
    attempt: AttemptContext,
    parts: TrainingComponents,
    checkpoints: CheckpointManager,
    copies: NeighborCopies,
) -> None:
    if task.copy is None:
        return
    lock = passed_lock(attempt.run.path)
    assert lock is not None
    saving = _Saving(attempt, parts, checkpoints, copies, lock.require)
    if task.saves:
        saving.save_copies(task.copy)
    else:
        saving.hand_over(task.copy, task.shards)


@dataclass(frozen=True)
class _Saving:
    attempt: AttemptContext
    parts: TrainingComponents
    checkpoints: CheckpointManager
    copies: NeighborCopies
    require_lock: Callable[[], None]

    def save_own_state(self, step: int, record: dict[str, Any] | None) -> None:
        """Save this rank's state, unless rank 0 has written a checkpoint of the step before."""
        path, store = self._written(step)
        if path is None:
            model, optimizer = self.parts.engine.state()
            state = self.checkpoints.state(step) | {"record": record}
            path = store.write(Snapshot(step, clone_to_host(model), clone_to_host(optimizer), state))
        self._note(step, OF_RANK, path)

    def save_copies(self, step: int) -> None:
        """Save the copies of a step, with those that other ranks have handed over, unless rank 0 has written a
        checkpoint of that step or a later one before."""
        files = self._files(step)
        try:
            path, store = self._written(step)
            if path is None:
                kept = self.copies.of_step(step)
                shards = [self._shard(step, rank, files) for rank in range(self.attempt.process.world_size)]
                optimizer = self.parts.engine.join_shards([shard.tensors for shard in shards])
                path = store.write(Snapshot(step, kept.model, optimizer, kept.state))
                self._note(step, OF_COPIES, path)
        finally:
            files.remove()

    def hand_over(self, step: int, ranks: tuple[int, ...]) -> None:
        """Write the copies of the shards of ranks into files for the rank that saves."""
        files = self._files(step)
        for rank in ranks:
            files.write(rank, self.copies.shard(step, rank).content)

    def _shard(self, step: int, rank: int, files: ShardFiles) -> PackedTensors:
        if rank in self.copies.shards(step):
            return self.copies.shard(step, rank)
        shard = PackedTensors(self.copies.of_step(step).own.tensors)
        shard.content.copy_(files.read(rank, len(shard.content)))
        return shard

    def _files(self, step: int) -> ShardFiles:
        return ShardFiles(
            self.attempt.run.checkpoints, self.attempt.number, step, require_lock=self.require_lock
        )

    def _written(self, step: int) -> tuple[Path | None, CheckpointStore]:
        """Return the attempt's checkpoint of this step or a later one. None: there is none. Return the store too."""
        self.checkpoints.wait()
        store = CheckpointStore(
            self.attempt.run.checkpoints,
            attempt=self.attempt.number,
            keep_last=sys.maxsize,  # the next attempt removes what its rules do not keep
            require_lock=self.require_lock,
        )
        found = (
            path
            for path, state in store.states()
            if state["step"] >= step and state["attempt"] == self.attempt.number
        )
        return next(found, None), store

    def _note(self, step: int, source: str, path: Path) -> None:
        rank = self.attempt.process.rank
        self.attempt.run.note(SURVIVED, attempt=self.attempt.number, step=step, rank=rank, source=source)
        LOGGER.warning("rank %d has saved %s, because another rank is lost", rank, path.name)
