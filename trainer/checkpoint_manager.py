"""A run's checkpoints, lock and ledger behind the calls of the training loop: resume, due, save, finish."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from trainer.checkpoints.background_writer import BackgroundWriter
from trainer.checkpoints.folder_names import list_checkpoints, step_and_revision
from trainer.checkpoints.format import Snapshot, follows_broken_steps
from trainer.checkpoints.host_copies import clone_to_host
from trainer.checkpoints.keep_rules import best_step
from trainer.checkpoints.rollback_state import RollbackState
from trainer.checkpoints.store import CheckpointStore
from trainer.config.resume_compat import fingerprint
from trainer.distributed.objects import broadcast_object
from trainer.runs.components import AttemptContext, TrainingComponents, refuse_other_set
from trainer.runs.saved_progress import SAVED, refuse_lost_checkpoints

PACKAGES = (
    *("torch", "torchvision", "deepspeed", "nvidia-dali-cuda130"),
    *("opencv-python-headless", "webdataset"),
)


class CheckpointManager:
    """Saves and restores the state of a run. Every rank takes part in a save, and rank 0 writes."""

    def __init__(self, attempt: AttemptContext, parts: TrainingComponents) -> None:
        self._attempt, self._parts = attempt, parts
        self._last_saved, self._messages = -1, list[str]()
        self._saved_at = time.monotonic()
        self.rollback = RollbackState()
        """The current position in the order of batches."""
        self.record: dict[str, Any] | None = None
        """The training record that the loaded checkpoint brings, which may be missing in the metrics."""
        self.values: Callable[[], Mapping[int, float]] = dict
        """Returns the values of `checkpoint.keep_best` by evaluated step. Rank 0 needs them."""
        self._told_slow = False
        is_first, rules = attempt.process.is_first, attempt.config.checkpoint
        self._store = CheckpointStore(
            attempt.run.checkpoints,
            attempt=attempt.number if is_first else None,  # the others only read
            keep_last=rules.keep_last,
            keep_every=rules.keep_every,
            values=lambda: self.values(),
            require_lock=self.require_lock,
        )
        self._writer = BackgroundWriter(self._store, self._note_first_save) if is_first else None
        self._has_saved = False

    def resume(self) -> int:
        """Load the newest complete checkpoint on every rank. Returns its step, or 0 if there is no checkpoint.

        Raises:
            UserError: the run has saved checkpoints, and they are gone.
        """
        path: Path | None = None
        snapshot: Snapshot | None = None
        if self._attempt.process.is_first:
            loaded = self._store.load_newest()
            if loaded is None:
                refuse_lost_checkpoints(self._attempt.run, checkpoint_every=self._interval)
            else:
                path, snapshot = loaded.path, loaded.snapshot
                self._messages += [f"skipped {p.name}: {why}" for p, why in loaded.skipped]
                self._messages.append(f"resuming from {path.name}")
        path = broadcast_object(path)
        return 0 if path is None else self._take(snapshot or self._store.load(path))

    def roll_back(self, step: int, why: str) -> int:
        """Load a good checkpoint, and skip all batches that the run has used so far. Every rank calls.

        If the run fails again before it has a newer good checkpoint, the next rollback goes back further.

        Args:
            step: number of steps that are done.
            why: what is broken, for the user.

        Returns the step from which to resume.

        Raises:
            UserError: there is no good checkpoint, or the run has rolled back too often.
        """
        before, most = self.rollback, self._attempt.config.guard.max_rollbacks
        path: Path | None = None
        snapshot: Snapshot | None = None
        if self._writer is not None:
            self._writer.wait()
            path, snapshot = self._good_checkpoint()
        path = broadcast_object(path)
        if path is None or before.rollbacks >= most:
            gone, retry = "There is no good checkpoint to roll back to", ""
            if path is not None:
                gone = f"The run has already rolled back {before.rollbacks} times"
                retry = (
                    "if the rollbacks are far apart, run: "
                    f"all4one resume {quoted(self._attempt.run.path)} guard.max_rollbacks={most + 3}. Otherwise "
                )
            raise UserError(
                f"{why}. {gone}",
                where=self._attempt.run.path,
                fix=f"{retry}start a new run with a lower optim.lr, a longer optim.warmup_epochs, or with "
                "optim.max_grad_norm. ledger.jsonl lists the rollbacks, and the checkpoints are kept",
            )
        reached = self._take(snapshot or self._store.load(path))
        self.rollback = RollbackState(
            step + before.skipped_batches - reached, rollbacks=before.rollbacks + 1, rolled_back_to=reached
        )
        if self._attempt.process.is_first:
            self._store.go_back_to(path)
            self._attempt.run.note(
                "rollback",
                attempt=self._attempt.number,
                from_step=step,
                to_step=reached,
                skipped_batches=self.rollback.skipped_batches,
                message=why,
            )
            self._messages.append(
                f"warning: {why}. The run rolls back to {path.name} and continues with the batches that follow "
                f"(rollback {self.rollback.rollbacks} of {most})"
            )
        return reached

    def trust(self, step: int) -> None:
        """Keep the newest checkpoint up to a step from now on, whatever the keep rules say."""
        self._store.trusted = step

    def set_aside(self, step: int) -> tuple[list[str], int]:
        """Wait for the last write, and set aside the checkpoints of steps after `step`. Only rank 0 calls.

        Returns their new names, and the step from which the next attempt resumes.
        """
        assert self._writer is not None
        self._writer.wait()
        moved = self._store.set_aside(step)
        return [path.name for path in moved], self._store.newest_step()

    def _good_checkpoint(self) -> tuple[Path, Snapshot] | tuple[None, None]:
        """Return the newest complete checkpoint that does not follow a broken step. If the last rollback already loaded
        that one, return the good checkpoint before it, if there is one."""
        found: tuple[Path, Snapshot] | tuple[None, None] = (None, None)
        for path, state in self._store.states():
            if follows_broken_steps(state):
                continue
            try:
                found = path, self._store.load(path)
            except UserError as error:
                self._messages.append(f"skipped {path.name}: {error}")
                continue
            if state["step"] != self.rollback.rolled_back_to:
                break
        return found

    def _take(self, snapshot: Snapshot) -> int:
        """Load a checkpoint into the components of the run. Returns its step."""
        if snapshot.state["config"] != fingerprint(self._attempt.config):
            raise UserError(
                "the checkpoints were made with other settings",
                where=self._attempt.run.checkpoints,
                fix=f"restore the original {self._attempt.run.config}, or start a new run",
            )
        refuse_other_set(snapshot.state, self._parts.train_set)
        self._parts.engine.load_state(snapshot.model, snapshot.optimizer)
        self._parts.engine.guard.load_state_dict(snapshot.state["guard"])
        self.rollback = RollbackState.of(snapshot.state)
        self._last_saved = snapshot.step
        self.record = snapshot.state.get("record")
        return snapshot.step

    def due(self, step: int) -> bool:
        """Whether a checkpoint of this step is due. Broken steps are not saved, because they would push out good
        checkpoints."""
        interval = self._interval
        return interval > 0 and step % interval == 0 and self.may_save

    @property
    def overdue(self) -> bool:
        """Whether `checkpoint.every_minutes` have passed since the last save. Only the first rank's clock counts."""
        minutes = self._attempt.config.checkpoint.every_minutes
        return 0 < 60 * minutes <= time.monotonic() - self._saved_at and self._attempt.process.is_first

    @property
    def may_save(self) -> bool:
        """Whether the last step was not broken. The same on every rank."""
        return not self._parts.engine.guard.state_dict()["in_a_row"]

    def is_best(self, step: int) -> bool:
        """Whether the checkpoint of this step, which was just evaluated, is the best one. Every rank calls."""
        if not self._attempt.config.checkpoint.keep_best or not self.may_save:
            return False
        others = [step_and_revision(path)[0] for path in list_checkpoints(self._store.folder)]
        # The last one may still be written.
        return bool(broadcast_object(best_step(self.values(), [*others, self._last_saved, step]) == step))

    @property
    def _interval(self) -> int:
        return self._attempt.config.checkpoint.interval(self._parts.loader.steps_per_epoch)

    def _note_first_save(self, step: int) -> None:
        """Record the first checkpoint of the attempt, so that a later attempt knows that there must be one."""
        if not self._has_saved:
            self._has_saved = True
            self._attempt.run.note(SAVED, attempt=self._attempt.number, step=step)

    def save(self, step: int) -> None:
        """Copy the state to host memory. A background thread writes it to disk."""
        self._saved_at = time.monotonic()
        if step == self._last_saved:
            return
        self._last_saved = step
        model, optimizer = self._parts.engine.state()
        if self._writer is None:
            return
        self.require_lock()
        snapshot = Snapshot(step, clone_to_host(model), clone_to_host(optimizer), self.state(step))
        self._parts.engine.loss_flag.refuse()
        self._writer.submit(snapshot)

    def require_lock(self) -> None:
        """Raise a UserError if another process has taken over the run. This process must then write nothing more."""
        if self._attempt.lock is not None:
            self._attempt.lock.require()

    def state(self, step: int) -> dict[str, Any]:
        """Return the JSON part of a checkpoint after `step` steps."""
        epoch, batch = divmod(step + self.rollback.skipped_batches, self._parts.loader.steps_per_epoch)
        return {
            "step": step,
            "epoch": epoch,
            "position": batch * self._attempt.config.train.global_batch,
            "rollback": asdict(self.rollback),
            "guard": self._parts.engine.guard.state_dict(),
            "seed": self._attempt.config.run.seed,
            "config": fingerprint(self._attempt.config),
            "data": self._parts.train_set.fingerprint,
            "classes": self._parts.train_set.num_classes,
            "attempt": self._attempt.number,
            "world_size": self._attempt.process.world_size,
            "saved": time.time(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        }

    def finish(self) -> None:
        """Wait for the last write.

        Raises:
            UserError: the write failed. A run never counts as finished without its weights on disk.
        """
        failed = None
        if self._writer is not None:
            self._writer.wait()
            newest = self._store.newest_state() or {}
            if self._last_saved >= 0 and newest.get("step") != self._last_saved:
                failed = "; ".join(self._writer.warnings()) or "it is missing"
        failed = broadcast_object(failed)
        if failed:
            raise UserError(
                f"the last checkpoint could not be saved: {failed}",
                fix=f"solve this problem, then run: all4one resume {quoted(self._attempt.run.path)}",
            )

    def take_messages(self) -> list[str]:
        """Return the messages for the user since the last call."""
        messages, self._messages = self._messages, []
        if self._writer is None:
            return messages
        warnings = self._writer.warnings()
        signal_lead_seconds, slowest = (
            self._attempt.config.slurm.signal_lead_seconds,
            self._writer.slowest_seconds,
        )
        # Twice the time: the signal may arrive just after a write has begun, and the last write follows that one.
        if "SLURM_JOB_ID" in os.environ and 2 * slowest > signal_lead_seconds and not self._told_slow:
            self._told_slow = True
            warnings.append(
                f"a checkpoint took {slowest:.0f} s to write. Two such writes may not fit into the "
                f"{signal_lead_seconds} s between the signal and the end of the job. "
                f"Resume with slurm.signal_lead_seconds={4 * slowest:.0f}"
            )
        return messages + [f"warning: {warning}" for warning in warnings]

    def wait(self) -> None:
        """Wait for a running write."""
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Wait for a running write and stop the writer."""
        if self._writer is not None:
            self._writer.close()
