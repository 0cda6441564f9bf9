"""What every writer is, and the thread in which it works so that no step waits for it and no failure stops a run."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

from data_pipelines.errors import first_line

Record = Mapping[str, Any]
"""A line of metrics.jsonl: `kind` (`train` or `eval`), `step`, values by name, and `time`, those of the clock."""


class Writer(Protocol):
    """Takes records in the order in which they are made. Any method may raise: the run goes on."""

    recovers: ClassVar[bool]
    """Whether records after a failure are worth a try."""

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """The run goes on from this step, and these are the records up to there: at the start, and after going back."""

    def write(self, record: Record) -> None:
        """Take one record more."""

    def close(self) -> None:
        """Finish what was taken."""


def numbers(record: Record) -> Iterator[tuple[str, float]]:
    """The values of a record by name, those of the clock after the others."""
    own = {name: value for name, value in record.items() if name not in ("kind", "step", "time")}
    yield from {**own, **record.get("time", {})}.items()


class Background:
    """A writer in a thread of its own.

    Where it fails, that is said once, and it gets no more records unless it may recover.

    Args:
        name: of the writer, for the user.
        writer: used in that thread alone.
        patience: seconds that `close` waits for it.
    """

    def __init__(self, name: str, writer: Writer, patience: float = 15.0) -> None:
        self._name, self._writer, self._patience = name, writer, patience
        self._warnings: list[str] = []
        self._failed = False
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"writer of {name}", daemon=True)
        self._thread.start()

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """See `Writer`; returns at once."""
        self._tasks.put(partial(self._writer.restart, step, list(records)))

    def write(self, record: Record) -> None:
        """See `Writer`; returns at once."""
        self._tasks.put(partial(self._writer.write, record))

    def warnings(self) -> list[str]:
        """What went wrong since this was last asked, for the user."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def close(self) -> None:
        """Have the writer finish, for as long as patience lasts."""
        self._tasks.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._warnings.append(
                f"{self._name} has not finished within {self._patience:g} s and is left behind"
            )

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self._works(task) and not self._writer.recovers:
                return
        self._works(self._writer.close)

    def _works(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # whatever it is, it is no reason to lose a run
            if not self._failed:
                after = "it is tried again" if self._writer.recovers else "the run goes on without it"
                self._warnings.append(f"{self._name} failed: {first_line(error)}; {after}")
            self._failed = True
            return False
        return True
