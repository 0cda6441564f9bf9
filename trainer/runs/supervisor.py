"""A rank's connection to its supervisor, the process that has started it and restarts it.

If a rank is lost, each other rank reports the last step whose state it holds. The supervisor then names one of them,
which saves this state. It also tells ranks of a loss that they may not notice, so that they stop waiting for messages.
Both sides send lines of JSON.
"""

import json
import os
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SOCKET = "ALL4ONE_SUPERVISOR"
"""Environment variable with the file descriptor of the rank's socket. Absent: nobody restarts the rank."""


class Supervisor:
    """The supervisor from the point of view of a rank.

    Args:
        connection: socket whose other end the supervisor holds.
        on_lost_peer: called in a thread when the supervisor says that a peer is lost. It must end the rank's waits.
    """

    def __init__(self, connection: socket.socket, on_lost_peer: Callable[[], None]) -> None:
        self._connection, self._on_lost_peer = connection, on_lost_peer
        self._answers = queue.SimpleQueue[bool]()
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    @classmethod
    def of_this_process(cls, on_lost_peer: Callable[[], None]) -> "Supervisor | None":
        """Return the supervisor that the environment names. None: there is none. Call it once."""
        number = os.environ.get(SOCKET)
        return None if number is None else cls(socket.socket(fileno=int(number)), on_lost_peer)

    def must_save(self, step: int | None) -> bool:
        """Report that a peer is lost, and wait until the supervisor has heard of all ranks.

        Args:
            step: the step whose state this rank holds. None: it holds no state that may be saved.

        Returns whether this rank has to save the state.
        """
        with suppress(OSError):  # the supervisor has ended
            send(self._connection, {"lost_peer": True, "step": step})
        return self._answers.get()

    def _listen(self) -> None:
        with suppress(OSError), self._connection.makefile("r") as lines:
            for message in map(json.loads, lines):
                if "save" in message:
                    self._answers.put(bool(message["save"]))
                else:
                    self._on_lost_peer()
        self._answers.put(False)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message as one line."""
    connection.sendall(json.dumps(message).encode() + b"\n")
