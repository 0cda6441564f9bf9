"""Forwards signals that ask to stop from the agent of a node to its ranks. Loads no torch."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

FORWARDED = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class SignalForwarding:
    """Remembers signals, and sends them to the ranks of this node, also to those that start later."""

    def __init__(self) -> None:
        self.received: list[int] = []
        """The signals that have come."""
        self._ranks: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal. `signal.signal` calls this."""
        self.received.append(number)
        self._send(number, self._ranks)

    def add(self, rank: int) -> None:
        """Forward signals to a process, also those that came before.

        Args:
            rank: process id of a rank whose end nobody has waited for.
        """
        self._ranks.append(rank)
        for number in self.received:
            self._send(number, [rank])

    def remove(self, rank: int) -> None:
        """Forward no signal to a process that has ended, because another one may get its id."""
        self._ranks.remove(rank)

    def _send(self, number: int, ranks: Iterable[int]) -> None:
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, number)


@contextmanager
def forwarded_signals() -> Iterator[SignalForwarding]:
    """Forward the signals of `FORWARDED` in this context."""
    forwarding = SignalForwarding()
    previous = {number: signal.signal(number, forwarding) for number in FORWARDED}
    try:
        yield forwarding
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
