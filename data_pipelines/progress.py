"""Progress bars for the user: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from data_pipelines.console import plain_console
from data_pipelines.formatting import duration
from data_pipelines.masking import masked

_LINE_EVERY = 10.0
"""Seconds between plain lines, so that a log file stays readable."""


class ProgressBars:
    """Running tasks, one below the other.

    Args:
        visible: whether this process shows anything.
    """

    def __init__(self, visible: bool) -> None:
        self.console = plain_console(stderr=True, quiet=not visible)
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (visible and self.console.is_terminal),
        )
        self._last_line = 0.0

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(masked(message), soft_wrap=True)

    def start(self, name: str, total: int | None, done: int = 0) -> TaskID:
        """Show a task until `stop` is called.

        Args:
            name: name of the task.
            total: total number of steps. None: unknown.
            done: number of steps that are already done.
        """
        self._bars.start()
        return self._bars.add_task(name, total=total, completed=done, status="")

    def show(self, task: TaskID, done: int, status: str, line: Callable[[], str] | None = None) -> None:
        """Show the progress of a task.

        Args:
            task: task from `start`.
            done: number of steps that are done.
            status: a few words on its state.
            line: returns the plain line, which is printed from time to time if there is no terminal. None: no line.
        """
        self._bars.update(task, completed=done, status=status)
        if self.console.is_terminal or line is None or time.monotonic() - self._last_line < _LINE_EVERY:
            return
        self._last_line = time.monotonic()
        self.say(line())

    def stop(self, task: TaskID) -> None:
        """Remove a task. Removing the last task also stops the display."""
        self._bars.remove_task(task)
        if not self._bars.tasks:
            self._bars.stop()

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
        """Show a task during a block. Yields a function that advances the task by one and takes a few words on its
        state.

        Args:
            name: name of the task.
            total: total number of steps.
            done: number of steps that are already done.
        """
        task, reached, began = self.start(name, total, done), done, time.monotonic()
        self._last_line = max(self._last_line, began)  # no line before the first progress

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

    @contextmanager
    def counter(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show a task during a block, on a terminal only. Yields a function that takes the number of steps done.

        Args:
            name: name of the task.
            total: total number of steps. None: unknown.
        """
        task = self.start(name, total)
        try:
            yield lambda done: self.show(task, done, "")
        finally:
            self.stop(task)
