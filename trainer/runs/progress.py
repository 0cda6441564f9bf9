"""What the user sees while a run trains: a bar on a terminal, plain lines elsewhere, from rank 0 only."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """Step, epoch, loss, images/s, share of time waiting for data, and time left.

    Args:
        total_steps: steps of the run.
        done: steps that earlier attempts did.
        batch: images of a step.
        visible: whether this process shows anything.
    """

    _LINE_EVERY = 10.0  # seconds between plain lines, so that a log file stays readable

    def __init__(self, total_steps: int, done: int, batch: int, visible: bool) -> None:
        self.console = Console(stderr=True, quiet=not visible, highlight=False)
        self._total, self._batch, self._last_line, self._values = total_steps, batch, 0.0, ""
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (visible and self.console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total_steps, completed=done, status="")
        self._bar.start()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self.console.print(message, soft_wrap=True, markup=False)

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
        self._bar.update(self._task, completed=step, status=status)
        if self.console.is_terminal or loss is None or time.monotonic() - self._last_line < self._LINE_EVERY:
            return
        self._last_line = time.monotonic()
        left = (self._total - step) * self._batch / max(images_per_second, 1e-9)
        self.say(f"step {step}/{self._total} · {status} · {_duration(left)} left")

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a second bar while something else is done; gives the function that advances it by one."""
        task = self._bar.add_task(name, total=total, status="")
        try:
            yield lambda: self._bar.advance(task)
        finally:
            self._bar.remove_task(task)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min"
        if hours
        else f"{minutes} min {seconds:02d} s"
        if minutes
        else f"{seconds} s"
    )
