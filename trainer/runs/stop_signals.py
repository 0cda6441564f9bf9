"""Requests to stop. A signal only sets a flag, and all ranks act on it together at a step boundary."""

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
SAVE_DUE = 1
"""Code that the ranks agree on if none wants to stop and the first wants to save."""
DATA_FAILED = 1000
"""Code that the ranks agree on if the data of a rank failed."""


class StopRequest:
    """Catches SIGINT, SIGUSR2 and SIGTERM inside its block. If several arrive, the last one in this list counts.

    The handler does no work, because it may run in the middle of a collective or a write. A second signal does not
    affect a save that has begun.
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
        """Exit code of the signals that this process received. 0: none. Other ranks may have received other signals."""
        return self._received

    def is_set(self) -> bool:
        """Whether this process received a signal."""
        return self._received != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = max(self._received, _EXIT_CODES[number])

    def agreement(self, wish: int = 0) -> "AsyncFlagReduce":
        """Begin to agree on the code with which all ranks stop, on `SAVE_DUE`, or on 0 to continue. Every rank calls
        this at the same point.

        Args:
            wish: `DATA_FAILED` or `SAVE_DUE` on this rank. The one takes precedence over any signal, the other over
                none.
        """
        from trainer.distributed.process_group import (
            AsyncFlagReduce,  # imported here: signals are caught before torch is loaded
        )

        return AsyncFlagReduce(max(wish, self._received))

    def agreed(self) -> int:
        """Return the code with which all ranks stop, or 0 to continue. Every rank calls this at the same point."""
        return self.agreement().result()
