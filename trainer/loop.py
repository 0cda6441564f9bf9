"""The training loop: steps, records, evaluations and checkpoints, until the run is done or a signal asks to stop."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple

from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.formatting import percent
from data_pipelines.loading.prefetching_batches import Batch
from trainer.checkpoint_manager import CheckpointManager
from trainer.distributed.lost_peer import Connections, LostPeer, is_lost_peer
from trainer.distributed.objects import all_gather_object, broadcast_object
from trainer.distributed.peer_loss import PeerLoss
from trainer.distributed.process_group import AsyncFlagReduce
from trainer.distributed.record_layout import Phase
from trainer.engine.value_means import mean_over_ranks
from trainer.evaluation.features import EvaluationInterrupted
from trainer.monitoring.metrics import MetricsWriter, open_metrics
from trainer.monitoring.online_evaluation import OnlineEvaluation
from trainer.monitoring.recorder import Recorder
from trainer.runs.attempt_times import AttemptTimes
from trainer.runs.components import AttemptContext
from trainer.runs.hang_watch import HangWatch
from trainer.runs.neighbor_copies import NeighborCopies
from trainer.runs.progress import TrainingProgress
from trainer.runs.replica_checks import ReplicaChecks
from trainer.runs.stop_signals import DATA_FAILED, SAVE_DUE, StopRequest
from trainer.runs.supervisor import Supervisor
from trainer.setup import build
from trainer.survivors import save_as_survivor, use_copies_if_stuck


class Trainer:
    """Trains one run from its newest checkpoint, or from the start. Every rank makes one.

    Raises:
        UserError: something that the user can fix. Saved checkpoints stay.
    """

    def __init__(self, attempt: AttemptContext, stop: StopRequest, watch: HangWatch) -> None:
        config, run, process = attempt.config, attempt.run, attempt.process
        self.attempt, self.config, self.stop, self.watch = attempt, config, stop, watch
        self._cleanup = ExitStack()
        self.parts = build(config, run, process, give_up=stop.is_set)
        self.copies = NeighborCopies(config, process, self.parts.engine)
        self._has_begun = False
        self._loss_flag = self.parts.engine.loss_flag
        self._peer_loss = PeerLoss(self._loss_flag, Connections.of_this_process())
        self._supervisor = Supervisor.of_this_process(self._lose_peer)
        self._cleanup.enter_context(self.parts.loader)
        self.checkpoints = CheckpointManager(attempt, self.parts)
        self.times = AttemptTimes(attempt)
        self.step = self._loaded_step = self.checkpoints.resume()
        watch.stepped(self.step)
        self.copies.begin_at(self.step)
        self.replicas = ReplicaChecks(attempt, self.parts.engine, self.parts.total_steps, self.checkpoints)
        self.progress = TrainingProgress(
            self.parts.total_steps, self.step, config.train.global_batch, process.is_first
        )
        self._cleanup.callback(self.progress.close)
        self.metrics: MetricsWriter | None = None
        if process.is_first:
            self.metrics = open_metrics(run, config, self.step, self.checkpoints.require_lock)
            self.metrics.add_missing(self.checkpoints.record)
            self.checkpoints.values = self.metrics.kept_values
            self._cleanup.callback(self._say_messages)  # runs after close, which may warn
            self._cleanup.callback(self.metrics.close)
        self.evaluation = OnlineEvaluation(config, process, self.parts, self.progress.bars, stop, watch)
        self._losses: dict[str, Tensor] | None = None
        self.recorder = Recorder(
            config, self.parts, self.progress, self.metrics, self.checkpoints.require_lock, self.step
        )

    def train(self) -> int:
        """Train to the end. Returns the exit code: 0 when done, or 130 or 143 if a signal asked to stop. In that case
        a checkpoint of the last step is saved.
        """
        self._has_begun = True
        with self._cleanup:
            self._say_messages()
            if self.parts.initial_weights is not None:
                self.progress.say(self.parts.initial_weights)
            if self.config.data.reader == "stream":
                self.progress.say(
                    "data.reader is stream: a resumed run sees other samples than an uninterrupted one"
                )
            try:
                code = self._loop()
                self.copies.finish()
                self.watch.doing("waiting for the last checkpoint to be written", Phase.SAVE)
                with self.times.save():
                    self.checkpoints.finish()
                if code:
                    saved = f". The checkpoint of step {self.step} is saved" if self.step else ""
                    self.progress.say(f"stopped by a signal{saved}")
                return code
            except Exception as error:
                if self._supervisor is not None and (is_lost_peer(error) or self._loss_flag.is_set):
                    self._peer_loss.declare()
                    save_as_survivor(
                        self.attempt,
                        self.parts,
                        self.checkpoints,
                        self.copies,
                        self.watch,
                        self._supervisor,
                        step=self.step,
                        loaded_step=self._loaded_step,
                        record_at=self.recorder.last,
                    )
                    if not is_lost_peer(error):  # it comes from what the ended messages have left
                        raise LostPeer("another rank is lost") from error
                raise
            finally:
                self.checkpoints.close()
                self._say_messages()

    def _lose_peer(self) -> None:
        """End the waits for the other ranks, because one of them is lost. A thread calls this."""
        threading.Thread(target=self._use_copies_if_stuck, name="copies", daemon=True).start()
        self._peer_loss.declare()

    def _use_copies_if_stuck(self) -> None:
        if self._supervisor is not None and self._has_begun:
            use_copies_if_stuck(self.attempt, self.parts, self.checkpoints, self.copies, self._supervisor)

    def _loop(self) -> int:
        self.watch.doing("comparing the state of the ranks", Phase.START)
        self.replicas.begin_at(self.step)
        iterator = self._batches()
        if code := self._evaluate_if_due():
            return code
        prefetched = self._fetch(iterator)
        while self.step < self.parts.total_steps:
            self._loss_flag.refuse()
            self.watch.doing("agreeing with the other ranks to continue", Phase.AGREEMENT)
            code = prefetched.agreement.result()
            self.watch.met()
            if code == SAVE_DUE:
                if self.checkpoints.may_save:
                    self._save()
            elif code:
                self._save()
                if code == DATA_FAILED:
                    raise UserError(self._first_failure(prefetched.failure))
                return code
            batches = prefetched.batches
            if self.step + 1 < self.parts.total_steps:
                # One step ahead: the ranks agree on the stop code while they compute, so no rank waits for another.
                prefetched = self._fetch(iterator)
            self.watch.doing("forward, backward and update", Phase.FORWARD)
            self._losses = self.parts.engine.step(
                self.step,
                self.parts.loader.on_device(batches),
                over_ranks=self.recorder.due(self.step + 1),
                before_update=self.copies.finish,
            )
            self.step += 1
            self.watch.stepped(self.step)
            self.times.stepped(self.step)
            if self.parts.engine.guard.in_a_row >= self.config.guard.max_skips:
                self._roll_back()
                iterator = self._batches()
                prefetched = self._fetch(iterator)
                continue
            self.watch.doing("recording the step", Phase.LOG)
            self.recorder.record(self.step, self._losses)
            self.watch.doing("comparing the state of the ranks", Phase.LOG)
            self.replicas.after_step(self.step)
            self._copy_if_due()
            # Save before the evaluation: an evaluation that is cut short runs again on resume.
            if self.checkpoints.due(self.step) or self.step == self.parts.total_steps:
                self._save()
            if code := self._evaluate_if_due():
                self._save()
                return code
        return 0

    def _batches(self) -> Iterator[Batch]:
        """Return the micro-batches from the next step on."""
        return self.parts.loader.batches(self.step + self.checkpoints.rollback.skipped_batches)

    def _fetch(self, iterator: Iterator[Batch]) -> "_PrefetchedStep":
        """Fetch all micro-batches of a step before it begins, because a step runs completely or not at all."""
        self.watch.doing("waiting for data", Phase.DATA_WAIT)
        try:
            batches, failure = list(islice(iterator, self.config.train.grad_accum_steps)), None
        except UserError as error:
            batches, failure = [], error
        wish = DATA_FAILED if failure else SAVE_DUE if self.checkpoints.overdue else 0
        return _PrefetchedStep(batches, failure, self.stop.agreement(wish))

    def _first_failure(self, own: UserError | None) -> str:
        """Return the data error of the lowest rank that has one. The result is the same on every rank."""
        return next(str(error) for error in all_gather_object(own) if error is not None)

    def _save(self) -> None:
        self.watch.doing("saving", Phase.SAVE)
        self.replicas.finish()
        with self.times.save():
            self.checkpoints.save(self.step)
        self._say_messages()

    def _copy_if_due(self) -> None:
        """Copy the state for a neighbor. The last step and broken ones are left out."""
        if self.step < self.parts.total_steps and self.copies.due(self.step) and self.checkpoints.may_save:
            self.watch.doing("copying the state for a neighbor", Phase.SAVE)
            with self.times.save():
                self.copies.begin(
                    self.step, self.checkpoints.state(self.step) | {"record": self.recorder.last(self.step)}
                )

    def _roll_back(self) -> None:
        """Roll back to a good checkpoint after too many consecutive steps with a broken gradient."""
        self._loss_flag.refuse()
        self.watch.doing("rolling back to a good checkpoint")
        assert self._losses is not None
        self.replicas.finish()
        values = mean_over_ranks(self._losses)
        why = (
            f"{self.parts.engine.guard.in_a_row} consecutive steps before step {self.step} had a broken gradient. Step "
            f"{self.step} has loss {values['loss']:.4g} and gradient norm {values['gradient_norm']:.4g}"
        )
        self.copies.begin_at(self.step)  # copies of steps that do not count any more must not come back
        self.step = self._loaded_step = self.checkpoints.roll_back(self.step, why)
        self.copies.begin_at(self.step)
        self.watch.stepped(self.step)
        self.replicas.begin_at(self.step)
        if self.metrics is not None:
            self.metrics.go_back(self.step)
        self.recorder.go_on_from(self.step)
        self._say_messages()

    def _evaluate_if_due(self) -> int:
        """Evaluate the backbones if this step is due. Returns the exit code if a signal arrived meanwhile, otherwise
        0."""
        if not self.evaluation.due(self.step):
            return 0
        if broadcast_object(self.metrics is not None and self.metrics.evaluated(self.step)):
            return 0
        self.watch.doing("evaluating", Phase.EVALUATION)
        try:
            with self.times.evaluation(self.step):
                values = self.evaluation.run()
        except EvaluationInterrupted as stopped:
            return stopped.code
        self._loss_flag.refuse()
        epoch = self.recorder.epoch(self.step)
        if self.metrics is not None:
            self.metrics.write("eval", self.step, values, epoch=epoch)
        shown = " · ".join(f"{name} {percent(value)}" for name, value in values.items())
        self.progress.say(f"step {self.step}, epoch {epoch:.2f}: {shown}")
        if self.checkpoints.is_best(self.step):
            self._save()
        self.recorder.start_clock(self.step)
        return 0

    def _say_messages(self) -> None:
        for message in self.checkpoints.take_messages():
            self.progress.say(message)
        for warning in self.metrics.warnings() if self.metrics is not None else []:
            self.progress.say(f"warning: {warning}")


class _PrefetchedStep(NamedTuple):
    """The batches of a later step, and the pending agreement of the ranks on whether to run it."""

    batches: list[Batch]
    """Incomplete only if this rank got a signal while it waited for data, or if its data failed."""
    failure: UserError | None
    """The error that stopped this rank's data, if any."""
    agreement: AsyncFlagReduce
    """The code with which all ranks stop before that step. `SAVE_DUE`: they save and run it. 0: they run it."""
