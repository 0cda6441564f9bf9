"""The training loop: steps, records, evaluations and checkpoints, until done or asked to stop."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice

from torch import Tensor

from data_pipelines.errors import UserError
from trainer.config import Config
from trainer.distributed import Process, from_first
from trainer.evaluation.features import Stopped
from trainer.evaluation.online import OnlineEvaluation
from trainer.metrics import MetricsWriter, mean_over_ranks
from trainer.persistence import Persistence
from trainer.progress import TrainingProgress
from trainer.run import RunFolder
from trainer.run_lock import RunLock
from trainer.setup import build
from trainer.signals import StopRequest


class Trainer:
    """Trains one run from its newest checkpoint, or from the start; every rank makes one.

    Raises:
        UserError: for what the user can mend. Checkpoints that were saved stay.
    """

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        process: Process,
        attempt: int,
        stop: StopRequest,
        lock: RunLock | None,
    ) -> None:
        self.config, self.process, self.stop = config, process, stop
        self._cleanup = ExitStack()
        self.parts = build(config, run, process)
        self._cleanup.enter_context(self.parts.loader)
        self.persistence = Persistence(config, run, process, attempt, self.parts, lock)
        self.step = self.persistence.resume()
        self.progress = TrainingProgress(
            self.parts.total_steps, self.step, config.train.global_batch, process.is_first
        )
        self._cleanup.callback(self.progress.close)
        self.metrics: MetricsWriter | None = None
        if process.is_first:
            self.metrics = MetricsWriter(
                run.metrics, run.tensorboard if config.metrics.tensorboard else None, self.step
            )
            self._cleanup.callback(self.metrics.close)
        self.evaluation = OnlineEvaluation(config, process, self.parts, self.progress, stop)
        self._clock = _Clock(self.parts.loader.wait_seconds)

    def train(self) -> int:
        """Train to the end. Returns the exit code: 0 when done; 130 or 143 where a signal asked to stop, with a
        checkpoint of that step saved.
        """  # fmt: skip
        with self._cleanup:
            self._say_messages()
            try:
                code = self._loop()
                self.persistence.finish()
                return code
            finally:
                self.persistence.close()
                self._say_messages()

    def _loop(self) -> int:
        batches = self.parts.loader.batches(self.step)
        if code := self._evaluate_if_due():
            return code
        while self.step < self.parts.total_steps:
            losses = self.parts.engine.step(self.step, islice(batches, self.config.train.accumulation))
            self.step += 1
            code = self.stop.agreed()
            last = self.step == self.parts.total_steps
            save = last or bool(code) or self.persistence.due(self.step)
            if save or self.step % self.config.metrics.log_every == 0:
                self._record(losses)
            else:
                self.progress.update(self.step, self._epoch(), None, 0, 0)
            self._check_queue()
            code = code or self._evaluate_if_due()
            if save or code:
                self.persistence.save(self.step)
                self._say_messages()
            if code:
                self.progress.say(f"stopped by a signal: a checkpoint of step {self.step} is saved")
                return code
        return 0

    def _epoch(self) -> float:
        return self.step / self.parts.loader.steps_per_epoch

    def _record(self, losses: dict[str, Tensor]) -> None:
        """Write down the step's values, and stop where they are no longer numbers."""
        values = mean_over_ranks(losses)
        speed, waiting = self._clock.lap(self.step, self.parts.loader.wait_seconds)
        images_per_second = speed * self.config.train.global_batch
        if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
            raise UserError(
                f"the loss is {values['loss']} and the gradient's norm {values['gradient_norm']} at step {self.step}",
                fix="lower optim.lr, lengthen optim.warmup_epochs or set optim.clip_gradients, in a new run; "
                "the checkpoints before this step stay",
            )
        values["lr"] = self.parts.engine.optimizer.param_groups[0]["lr"]
        if self.metrics is not None and self.step % self.config.metrics.log_every == 0:
            time_values = {"images_per_second": images_per_second, "data_wait": waiting}
            self.metrics.write("train", self.step, values, time_values, epoch=self._epoch())
        self.progress.update(self.step, self._epoch(), values["loss"], images_per_second, waiting)

    def _check_queue(self) -> None:
        queue = self.parts.engine.method.queue
        every = queue.settings.check_every if queue is not None else 0
        if queue is not None and every and self.step % every == 0 and not queue.same_everywhere():
            raise UserError(
                f"the neighbour queues of the ranks differ at step {self.step}",
                fix="a device or a network link has corrupted data: resume from the newest checkpoint, on other nodes",
            )

    def _evaluate_if_due(self) -> int:
        """Judge the backbones where the schedule says so. Returns the exit code if a signal came meanwhile."""
        recorded = self.metrics is not None and self.metrics.evaluated(self.step)
        if not self.evaluation.due(self.step) or from_first(recorded):
            return 0
        try:
            values = self.evaluation.run()
        except Stopped as stopped:
            return stopped.code
        if self.metrics is not None:
            self.metrics.write("eval", self.step, values, epoch=self._epoch())
        shown = " · ".join(f"{name} {100 * value:.2f} %" for name, value in values.items())
        self.progress.say(f"step {self.step}, epoch {self._epoch():.2f}: {shown}")
        self._clock = _Clock(self.parts.loader.wait_seconds, self.step)
        return 0

    def _say_messages(self) -> None:
        for message in self.persistence.take_messages():
            self.progress.say(message)


class _Clock:
    """Steps a second and the share of time spent waiting for data, between laps."""

    def __init__(
        self, waited: float, step: int | None = None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._now, self._time, self._waited, self._step = now, now(), waited, step

    def lap(self, step: int, waited: float) -> tuple[float, float]:
        time = self._now()
        seconds = max(time - self._time, 1e-9)
        steps = step - self._step if self._step is not None else 1
        share = (waited - self._waited) / seconds
        self._time, self._waited, self._step = time, waited, step
        return steps / seconds, share
