"""What the user sees of an evaluation: a bar on a terminal, plain lines now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY = 10.0  # seconds between plain lines


class EvalProgress:
    """Shows one task at a time.

    Args:
        visible: whether this process shows anything.
    """

    def __init__(self, visible: bool) -> None:
        self._visible = visible
        self._console = Console(stderr=True, quiet=not visible, highlight=False)

    def say(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, soft_wrap=True, markup=False)

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
        """Show how far something is; gives the function that advances it by one, with a few words on its state.

        Args:
            name: of the task.
            total: steps in all.
            done: steps that were done before.
        """
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._visible and self._console.is_terminal),
        )
        began = last = time.monotonic()
        reached = done

        def advance(status: str = "") -> None:
            nonlocal last, reached
            reached += 1
            bar.update(task, completed=reached, status=status)
            now = time.monotonic()
            if self._console.is_terminal or now - last < _LINE_EVERY:
                return
            last = now
            left = (now - began) / (reached - done) * (total - reached)
            self.say(f"{name}: {reached}/{total}{status and ' · '}{status} · {left:.0f} s left")

        with bar:
            task = bar.add_task(name, total=total, completed=done, status="")
            yield advance
