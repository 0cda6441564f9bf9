"""What the user sees of training and evaluation: bars on a terminal, plain lines elsewhere, from rank 0 only."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from data_pipelines.formatting import duration

_LINE_EVERY = 10.0
"""Seconds between plain lines, so that a log file stays readable."""


class ProgressBars:
    """Tasks that are under way, one below the other.

    Args:
        visible: whether this process shows anything.
    """

    def __init__(self, visible: bool) -> None:
        self.console = Console(stderr=True, quiet=not visible, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (visible and self.console.is_terminal),
        )
        self._last_line = 0.0

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(message, soft_wrap=True, markup=False)

    def start(self, name: str, total: int, done: int = 0) -> TaskID:
        """Show a task until `stop` is called.

        Args:
            name: of the task.
            total: steps in all.
            done: steps that were done before.
        """
        self._bars.start()
        return self._bars.add_task(name, total=total, completed=done, status="")

    def show(self, task: TaskID, done: int, status: str, line: Callable[[], str] | None = None) -> None:
        """Show how far a task is.

        Args:
            task: from `start`.
            done: steps that are done.
            status: a few words on its state.
            line: gives the plain line for where there is no terminal, now and then; None: none is due.
        """
        self._bars.update(task, completed=done, status=status)
        if self.console.is_terminal or line is None or time.monotonic() - self._last_line < _LINE_EVERY:
            return
        self._last_line = time.monotonic()
        self.say(line())

    def stop(self, task: TaskID) -> None:
        """Take a task away; the last one takes the display with it."""
        self._bars.remove_task(task)
        if not self._bars.tasks:
            self._bars.stop()

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Show a task for the length of a block. Gives the function that advances it by one, with words on its state.

        Args:
            name: of the task.
            total: steps in all.
            done: steps that were done before.
        """
        task, reached, began = self.start(name, total, done), done, time.monotonic()
        self._last_line = max(self._last_line, began)  # the first line comes once there is something to tell

        def advance(status: str = "") -> None:
            nonlocal reached
            reached += 1
            left = (time.monotonic() - began) / (reached - done) * (total - reached)
            words = f" · {status}" if status else ""
            self.show(
                task, reached, status, lambda: f"{name}: {reached}/{total}{words} · {duration(left)} left"
            )

        try:
            yield advance
        finally:
            self.stop(task)


class TrainingProgress(ProgressBars):
    """Step, epoch, loss, images/s, fraction of time waiting for data, and time left.

    Args:
        total_steps: steps of the run.
        done: steps that earlier attempts did.
        batch: images of a step.
        visible: whether this process shows anything.
    """

    def __init__(self, total_steps: int, done: int, batch: int, visible: bool) -> None:
        super().__init__(visible)
        self._total, self._batch, self._values = total_steps, batch, ""
        self._training = self.start("training", total_steps, done)

    def update(
        self,
        step: int,
        epoch: float,
        loss: float | None = None,
        images_per_second: float = 0.0,
        data_wait: float = 0.0,
        health: str = "",
    ) -> None:
        """Show the state after `step` steps; without a loss, the values of the last step that had one stay.

        `health` follows them as it is.
        """
        if loss is not None:
            self._values = (
                f" · loss {loss:.4f} · {images_per_second:.0f} images/s · data wait {100 * data_wait:.1f} %"
                f"{health}"
            )
        status = f"epoch {epoch:.2f}{self._values}"
        left = (self._total - step) * self._batch / max(images_per_second, 1e-9)
        line = f"step {step}/{self._total} · {status} · {duration(left)} left"
        self.show(self._training, step, status, (lambda: line) if loss is not None else None)

    def close(self) -> None:
        """Take the bar away."""
        self.stop(self._training)
