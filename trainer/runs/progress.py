"""Progress of training for the user. Only rank 0 shows it."""

from data_pipelines.formatting import duration
from data_pipelines.progress import BETWEEN, ProgressBars


class TrainingProgress:
    """Step, epoch, loss, images/s, fraction of time waiting for data, and time left.

    Args:
        total_steps: number of steps of the run.
        done: number of steps that earlier attempts did.
        batch: number of images in a step.
        visible: whether this process shows anything.
    """

    def __init__(self, total_steps: int, done: int, batch: int, visible: bool) -> None:
        self.bars = ProgressBars(visible)
        """The bars, for further tasks."""
        self._total, self._batch, self._values = total_steps, batch, ""
        self._training = self.bars.start("training", total_steps, done, unit="step")

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.bars.say(message)

    def update(
        self,
        step: int,
        epoch: float,
        loss: float | None = None,
        images_per_second: float = 0.0,
        data_wait: float = 0.0,
        health: str = "",
    ) -> None:
        """Show the state after `step` steps. Without a loss, the values of the last step that had one stay.

        `health` is appended to the values unchanged.
        """
        if loss is not None:
            fields = (
                f"loss {loss:.4f}",
                f"{images_per_second:.0f} images/s",
                f"data wait {100 * data_wait:.1f} %",
            )
            self._values = "".join(BETWEEN + field for field in fields) + health
        status = f"epoch {epoch:.2f}{self._values}"
        left = (self._total - step) * self._batch / max(images_per_second, 1e-9)
        line = BETWEEN.join((f"step {step}/{self._total}", status, f"{duration(left)} left"))
        self.bars.show(self._training, step, status, (lambda: line) if loss is not None else None)

    def close(self) -> None:
        """Remove the bar, and print the last step."""
        self.bars.stop(self._training)
        self.bars.say_last(self._training)
