"""The interface of a writer, and the thread in which it works. No step waits for it, and no failure stops the run."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

from data_pipelines.errors import first_line

Record = Mapping[str, Any]
"""A line of metrics.jsonl: `kind` (`train` or `eval`), `step`, values by name, and clock-dependent values in `time`."""


class Writer(Protocol):
    """Takes records in the order in which they are made. Any method may raise without stopping the run."""

    recovers: ClassVar[bool]
    """Whether the writer still gets records after a failure."""

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """Continue from this step with the given records up to it. Called at the start and after a rollback."""

    def write(self, record: Record) -> None:
        """Take one more record."""

    def close(self) -> None:
        """Finish writing the records taken so far."""


def numbers(record: Record) -> Iterator[tuple[str, float]]:
    """Return the values of a record by name. Clock-dependent values come last."""
    own = {name: value for name, value in record.items() if name not in ("kind", "step", "time")}
    yield from {**own, **record.get("time", {})}.items()


class Background:
    """Runs a writer in its own thread.

    The first failure gives a warning. After a failure, only a writer that recovers gets more records.

    Args:
        name: name of the writer, for the user.
        writer: the writer, which is used only in that thread.
        patience: time that `close` waits for the thread, seconds.
    """

    def __init__(self, name: str, writer: Writer, patience: float = 15.0) -> None:
        self._name, self._writer, self._patience = name, writer, patience
        self._warnings: list[str] = []
        self._failed = False
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"writer of {name}", daemon=True)
        self._thread.start()

    def restart(self, step: int, records: Sequence[Record]) -> None:
        """See `Writer`. Returns at once."""
        self._tasks.put(partial(self._writer.restart, step, list(records)))

    def write(self, record: Record) -> None:
        """See `Writer`. Returns at once."""
        self._tasks.put(partial(self._writer.write, record))

    def warnings(self) -> list[str]:
        """Return the warnings for the user since the last call."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def close(self) -> None:
        """Let the writer finish, and wait for it for at most `patience` seconds."""
        self._tasks.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._warnings.append(
                f"{self._name} did not finish within {self._patience:g} s. Its last records may be missing"
            )

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if not self._works(task) and not self._writer.recovers:
                return
        self._works(self._writer.close)

    def _works(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # no failure of a writer may end a run
            if not self._failed:
                after = "It is tried again" if self._writer.recovers else "The run continues without it"
                self._warnings.append(f"{self._name} failed: {first_line(error)}. {after}")
            self._failed = True
            return False
        return True
