"""A rank's connection to its supervisor, the process that has started it and restarts it.

If a rank is lost, each other rank reports the last step whose state it holds. The supervisor then names one of them,
which saves this state. Both sides send lines of JSON.
"""

import json
import os
import socket
from typing import Any

SOCKET = "ALL4ONE_SUPERVISOR"
"""Environment variable with the file descriptor of the rank's socket. Absent: nobody restarts the rank."""


class Supervisor:
    """The supervisor from the point of view of a rank.

    Args:
        connection: socket whose other end the supervisor holds.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r")

    @classmethod
    def of_this_process(cls) -> "Supervisor | None":
        """Return the supervisor that the environment names. None: there is none."""
        number = os.environ.get(SOCKET)
        return None if number is None else cls(socket.socket(fileno=int(number)))

    def must_save(self, step: int | None) -> bool:
        """Report that a peer is lost, and wait until the supervisor has heard of all ranks.

        Args:
            step: the step whose state this rank holds. None: it holds no state that may be saved.

        Returns whether this rank has to save the state.
        """
        send(self._connection, {"lost_peer": True, "step": step})
        answer = self._lines.readline()  # empty if the supervisor has ended
        return bool(answer) and bool(json.loads(answer)["save"])


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message as one line."""
    connection.sendall(json.dumps(message).encode() + b"\n")
