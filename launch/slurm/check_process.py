"""The agent's end of the connection to the process that checks its node."""

import json
import os
import signal
import socket
import time
from contextlib import suppress
from typing import Any

from launch.local.memory_kills import memory_kills, why_killed
from launch.local.rank_processes import start_rank
from trainer.runs.supervisor import send

_MODULE = "launch.node_check.process"
_END_SECONDS = 3.0
"""How long the agent waits for the end of a process that it has killed."""


class CheckProcess:
    """A process that checks this node.

    Args:
        node: number of the node.
        measure: the first order, as `launch/node_check/process.py` takes it.
    """

    def __init__(self, node: int, measure: dict[str, Any]) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.setblocking(False)
        self._received, self._has_ended, self._has_begun = b"", False, False
        self._is_closed = False
        self._memory_kills = memory_kills()
        with theirs:
            variables = {"RANK": str(node), "ALL4ONE_PARENT": str(os.getpid())}
            self._process = start_rank(_MODULE, [str(theirs.fileno())], variables, sockets=[theirs])
        self.ask({"measure": measure})

    @property
    def connections(self) -> list[socket.socket]:
        """The connection to the process, unless the process has closed it."""
        return [] if self._is_closed else [self._connection]

    def ask(self, order: dict[str, Any] | None) -> None:
        """Give the process an order. None: there is none for this node."""
        if order is not None:
            with suppress(OSError):  # it has ended, which `read` tells
                send(self._connection, order)

    def read(self) -> list[dict[str, Any]]:
        """Return the answers that have arrived.

        The first one is `{"begun": True}`. `{"failure": why}` says that the process has ended by itself.
        """
        code = self._process.poll()
        while True:
            try:
                data = self._connection.recv(2**16)
            except OSError:
                break
            if not data:
                self._is_closed = True
                break
            self._received += data
        *whole, self._received = self._received.split(b"\n")
        answers = [*([] if self._has_begun else [{"begun": True}]), *map(json.loads, whole)]
        self._has_begun = True
        if code is not None and not self._has_ended:
            self._has_ended = True
            answers.append({"failure": self._why_ended(code)})
        return answers

    def _why_ended(self, code: int) -> str:
        if code >= 0:
            return f"its process ended with code {code}"
        why = why_killed(self._memory_kills) if code == -signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{why}"

    def close(self) -> None:
        """End the process at once, and wait a moment for its end: it may hold a GPU that only one process can use.

        If it waits for a disk that does not answer, it does not end, and is left behind.
        """
        self._connection.close()
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
