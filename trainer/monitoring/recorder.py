"""Writes and shows the values of each step."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.config.schema import Config
from trainer.contrast.embedding_health import COLLAPSES, collapse_signs
from trainer.monitoring.metrics import MetricsWriter, make_record
from trainer.monitoring.notifications import notify_in_background
from trainer.monitoring.starvation import Starvation
from trainer.runs.components import TrainingComponents
from trainer.runs.progress import TrainingProgress

_RECORDS = 3
"""Number of records that are kept. The state that a rank saves may be two steps older than its last one."""


class Recorder:
    """Records the values of steps. Every rank has one, and rank 0 writes and shows them.

    Args:
        config: the run's settings.
        parts: components of the run.
        progress: shows values and warnings.
        metrics: writes the values. None: they are not written.
        require_lock: raises if this process must write nothing more.
        step: number of steps that are done.
    """

    def __init__(
        self,
        config: Config,
        parts: TrainingComponents,
        progress: TrainingProgress,
        metrics: MetricsWriter | None,
        require_lock: Callable[[], None],
        step: int,
    ) -> None:
        self._config, self._parts, self._progress = config, parts, progress
        self._metrics, self._require_lock = metrics, require_lock
        self._health, self._signs = "", set[str]()
        self._starvation = Starvation()
        self._last = deque[dict[str, Any]](maxlen=_RECORDS)
        self.go_on_from(step)

    def go_on_from(self, step: int) -> None:
        """Continue after this step."""
        self._skipped = float(self._parts.engine.guard.skipped)
        self.start_clock(step)

    def last(self, step: int) -> dict[str, Any] | None:
        """Return the last record up to a step, which may be two steps ago. It is the same on every rank, except for its
        times. None: this attempt has none. Records after the step that is saved are removed when the run resumes."""
        return next((record for record in reversed(self._last) if record["step"] <= step), None)

    def start_clock(self, step: int) -> None:
        """Start timing the steps after this one."""
        self._time, self._step, self._waited = time.perf_counter(), step, self._parts.loader.wait_seconds

    def epoch(self, step: int) -> float:
        """Return the number of passes over the training set after `step` steps."""
        return step / self._parts.loader.steps_per_epoch

    def due(self, step: int) -> bool:
        """Whether the values of a step are recorded."""
        return step % self._config.metrics.log_every == 0 or self._examined(step)

    def _examined(self, step: int) -> bool:
        every = self._config.metrics.health_every
        return every > 0 and step % every == 0

    def record(self, step: int, losses: dict[str, Tensor]) -> None:
        """Write and show the values of a step if they are due. Every rank calls, and none waits for another.

        Args:
            step: number of the step, from 1.
            losses: scalars [] that are the same on every rank if the step is due.
        """
        if not self.due(step):
            self._progress.update(step, self.epoch(step))
            return
        self._require_lock()
        on_host = torch.stack([value.double() for value in losses.values()]).tolist()
        values: dict[str, float] = dict(zip(losses, on_host, strict=True))
        values["lr"] = self._parts.engine.optimizer.param_groups[0]["lr"]
        images_per_second, waiting = self._lap(step)
        time_values = {
            "images_per_second": images_per_second,
            "data_wait": waiting,
            "bad_samples": self._parts.loader.bad_samples,
        }
        self._last.append(make_record("train", step, values, time_values, epoch=self.epoch(step)))
        if self._metrics is not None:
            self._metrics.add(self._last[-1])
        if self._examined(step):
            self._check_health(step, values)
        self._progress.update(
            step, self.epoch(step), values["loss"], images_per_second, waiting, self._health
        )
        if warning := self._starvation.look():
            self._progress.say(f"warning: {warning}")
        if values["skipped_steps"] > self._skipped:
            factor = self._config.guard.spike_factor
            or_large = f", or more than {factor:g} times as large as usual" if factor else ""
            self._progress.say(
                f"warning: {values['skipped_steps']:.0f} steps were skipped so far, the last one at or before step "
                f"{step}, because their gradient was not finite{or_large}"
            )
        self._skipped = values["skipped_steps"]

    def _lap(self, step: int) -> tuple[float, float]:
        """Return images per second and the fraction of time spent waiting for data since the last lap."""
        began, first, waited = self._time, self._step, self._waited
        self.start_clock(step)
        seconds = max(self._time - began, 1e-9)
        images = (step - first) * self._config.train.global_batch
        return images / seconds, (self._waited - waited) / seconds

    def _check_health(self, step: int, values: dict[str, float]) -> None:
        """Show health values, and warn of each sign of a collapse when it first appears."""
        self._health = f" · rank {values['z_rank']:.0f}"
        if math.isfinite(values.get("neighbor_agreement", math.nan)):
            self._health += f" · neighbors agree {100 * values['neighbor_agreement']:.0f} %"
        signs = collapse_signs(
            values,
            size=self._config.method.embedding_dim,
            rows=self._parts.engine.micro_batch,
            classes=self._parts.train_set.num_classes,
        )
        for name in signs.keys() - self._signs:
            self._progress.say(f"warning: step {step}: {signs[name]}")
            if self._metrics is not None and name in COLLAPSES:
                run = self._metrics.path.parent
                notify_in_background(self._config.notify, "collapsed", run, f"Step {step}: {signs[name]}.")
        self._signs = set(signs)
