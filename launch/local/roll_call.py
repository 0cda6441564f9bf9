"""Connections to the ranks of this node: each tells what it holds of the last steps, and hears whether it saves."""

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from trainer.runs.supervisor import SOCKET, Holdings, Task, send

_ERROR_HANDLING = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


class RollCall:
    """The supervisor's ends of the connections to the ranks of one start."""

    def __init__(self) -> None:
        self._connections: dict[int, socket.socket] = {}
        self._received: dict[int, bytes] = {}
        self._heard = set[int]()
        self._closed = set[int]()

    @property
    def connections(self) -> list[socket.socket]:
        """Connections to the ranks that have not closed theirs."""
        return [self._connections[rank] for rank in self._connections.keys() - self._closed]

    def connect(self, rank: int) -> tuple[socket.socket, dict[str, str]]:
        """Return the end of a new rank, which the supervisor closes once the rank has it, and variables of the rank."""
        own, theirs = socket.socketpair()
        own.setblocking(False)
        self._connections[rank], self._received[rank] = own, b""
        # By default torch kills a process on a GPU whose peer is lost. It must live, to save what the peer has lost.
        handling = {_ERROR_HANDLING: os.environ.get(_ERROR_HANDLING, "0")}
        return theirs, handling | {SOCKET: str(theirs.fileno())}

    def read(self) -> dict[int, Holdings]:
        """Return what each rank holds that has reported since the last call."""
        reports: dict[int, Holdings] = {}
        for rank, connection in self._connections.items():
            with suppress(BlockingIOError, ConnectionResetError):
                received = connection.recv(2**16)
                self._received[rank] += received
                if not received:
                    self._closed.add(rank)
            if rank not in self._heard and b"\n" in self._received[rank]:
                self._heard.add(rank)
                reports[rank] = Holdings.from_json(json.loads(self._received[rank].split(b"\n")[0]))
        return reports

    def interrupt(self) -> None:
        """Tell all ranks that a peer is lost. They may wait for a message of a machine that closed no connection."""
        for connection in self._connections.values():
            with suppress(OSError):
                send(connection, {"lost_peer": True})

    def answer(self, tasks: Mapping[int, Task]) -> None:
        """Tell ranks that have reported what they do."""
        for rank, task in tasks.items():
            if rank in self._connections:
                with suppress(OSError):  # it has ended meanwhile
                    send(self._connections[rank], task.as_json())

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
