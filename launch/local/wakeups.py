"""Lets a supervisor sleep until a rank ends or something is said, rather than look again and again.

Each look of a process that sleeps meanwhile costs about 0.1 ms of a core that a rank may compute on.
"""

import os
import select
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

BUSY_SECONDS = 0.02
"""Time between two looks while ranks end, whose deadlines are short, seconds."""


class HasFile(Protocol):
    """Something with a file descriptor, such as a socket."""

    def fileno(self) -> int:
        """Return the file descriptor."""


class Wakeups:
    """Waits for the ends of processes and for data. Knows the processes of one start."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        """The file descriptor that tells of the end of a process, by its id."""

    def wait(self, processes: Iterable[int], connections: Iterable[HasFile], seconds: float) -> None:
        """Wait until a process ends, a connection has data or is closed, or the time is up.

        Args:
            processes: ids of processes whose end this process has not noted yet.
            connections: open connections.
            seconds: the longest time.
        """
        waiting = select.poll()
        for process in processes:
            try:
                if process not in self._files:
                    self._files[process] = os.pidfd_open(process)
                waiting.register(self._files[process], select.POLLIN)
            except OSError:  # an old kernel, or a container that forbids the call
                seconds = min(seconds, BUSY_SECONDS)
        for connection in connections:
            waiting.register(connection, select.POLLIN)
        waiting.poll(1e3 * seconds)

    def close(self) -> None:
        """Release the file descriptors."""
        for file in self._files.values():
            with suppress(OSError):
                os.close(file)
        self._files.clear()
