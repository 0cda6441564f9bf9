"""Requests to stop: a signal only sets a flag, and all ranks act on it together at a step boundary."""

import signal
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from trainer.runs.end_reasons import ExitCode

if TYPE_CHECKING:
    from trainer.distributed.process_group import AsyncFlagReduce

_EXIT_CODES: dict[int, int] = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGUSR2: ExitCode.TIME_IS_UP,
    signal.SIGTERM: ExitCode.TERMINATED,
}
DATA_FAILED = 1000
"""Agreed on where a rank's data cannot go on."""


class StopRequest:
    """Catches SIGINT, SIGUSR2 and SIGTERM while it is entered; the later one of these counts.

    No work is done in the handler: it may run in the middle of a collective or a write. A second signal changes
    nothing about a save that has begun.
    """

    def __init__(self) -> None:
        self._received = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in _EXIT_CODES:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def received(self) -> int:
        """Code of the signals that this process has got; 0: none. Other ranks may have got others."""
        return self._received

    def is_set(self) -> bool:
        """Whether this process has got a signal."""
        return self._received != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = max(self._received, _EXIT_CODES[number])

    def agreement(self, failure: int = 0) -> "AsyncFlagReduce":
        """Begin to agree on the code that all ranks shall stop with, 0 to go on. Every rank calls it at the same point.

        Args:
            failure: code of a fault on this rank that all shall stop for, above any signal's.
        """
        from trainer.distributed.process_group import (
            AsyncFlagReduce,  # here: signals are caught before torch is loaded
        )

        return AsyncFlagReduce(max(failure, self._received))

    def agreed(self) -> int:
        """Code that all ranks shall stop with, 0 to go on. Every rank calls it at the same point."""
        return self.agreement().result()
