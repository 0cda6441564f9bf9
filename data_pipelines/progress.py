"""Progress bars for the user: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from data_pipelines.console import plain_console
from data_pipelines.formatting import duration
from data_pipelines.log import PRINTED
from data_pipelines.masking import masked

_LINE_EVERY = 10.0
"""Seconds between plain lines, so that a log file stays readable."""
BETWEEN = " · "
"""Separates the fields of a status."""


@dataclass(frozen=True)
class _Fields:
    """As many fields of a status as fit, from the first one on. No field is cut."""

    status: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, max(1, cell_len(BETWEEN.lstrip() + self.status)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        fields = self.status.split(BETWEEN) if self.status else []
        while fields and cell_len(shown := BETWEEN.lstrip() + BETWEEN.join(fields)) > options.max_width:
            fields.pop()
        yield Text(shown if fields else "", no_wrap=True)


class _StatusColumn(ProgressColumn):
    def render(self, task: Task) -> _Fields:
        """Return the status of a task. All other columns keep their width on a narrow terminal."""
        return _Fields(task.fields["status"])


class _CountColumn(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        """Return the steps that are done, such as `step 40/60`."""
        return Text(task.fields["unit"]) + super().render(task)


class _LeftColumn(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        """Return the time that is left, such as `0:02:10 left`."""
        return super().render(task) + Text(" left")


class ProgressBars:
    """Running tasks, one below the other.

    Args:
        visible: whether this process shows anything.
    """

    def __init__(self, visible: bool) -> None:
        self.console = plain_console(stderr=True, quiet=not visible)
        self._visible = visible
        width, fixed = self.console.width, Column(no_wrap=True)
        name = Column(no_wrap=True, overflow="ellipsis", max_width=max(20, width // 3))
        self._bars = Progress(
            TextColumn("{task.description}", style="bold", markup=False, table_column=name),
            BarColumn(bar_width=max(10, min(40, width // 6)), table_column=fixed),
            _CountColumn(table_column=fixed),
            _LeftColumn(table_column=fixed),
            _StatusColumn(),
            console=self.console,
            disable=not (visible and self.console.is_terminal),
        )
        self._last_line = 0.0
        self._unsaid: dict[TaskID, Callable[[], str]] = {}

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(masked(message), soft_wrap=True)
        if self._visible:
            PRINTED.info("%s", masked(message))

    def start(self, name: str, total: int | None, done: int = 0, unit: str = "") -> TaskID:
        """Show a task until `stop` is called.

        Args:
            name: name of the task.
            total: total number of steps. None: unknown.
            done: number of steps that are already done.
            unit: word before the number of steps.
        """
        self._bars.start()
        unit = f"{unit} " if unit else ""
        return self._bars.add_task(name, total=total, completed=done, status="", unit=unit)

    def show(
        self,
        task: TaskID,
        done: int,
        status: str,
        line: Callable[[], str] | None = None,
        total: int | None = None,
    ) -> None:
        """Show the progress of a task.

        Args:
            task: task from `start`.
            done: number of steps that are done.
            status: a few words on its state. Fields are separated by `BETWEEN`, the most important one first, because
                the last ones are left out on a narrow terminal.
            line: returns the plain line, which is printed from time to time if there is no terminal. None: no line.
            total: total number of steps, if it was not known at the start.
        """
        self._bars.update(task, completed=done, status=status, total=total)
        if line is None:
            return
        self._unsaid[task] = line
        if time.monotonic() - self._last_line < _LINE_EVERY:
            return
        self._last_line = time.monotonic()
        if not self.console.is_terminal:
            self.say_last(task)
        elif self._visible:
            PRINTED.info("%s", masked(line()))

    def say_last(self, task: TaskID) -> None:
        """Print the newest plain line of a task if it was not printed, so that the end of the task is on record."""
        if (line := self._unsaid.pop(task, None)) is not None:
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
