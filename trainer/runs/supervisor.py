"""A rank's connection to its supervisor, the process that has started it and restarts it.

If a rank is lost, each other rank reports what it holds of the last steps. The supervisor then names one of them, which
saves the newest step of which everything is left. It also tells ranks of a loss that they may not notice, so that they
stop waiting for messages. Both sides send lines of JSON.
"""

import json
import os
import queue
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

SOCKET = "ALL4ONE_SUPERVISOR"
"""Environment variable with the file descriptor of the rank's socket. Absent: nobody restarts the rank."""


@dataclass(frozen=True)
class HeldCopy:
    """What a rank keeps in host memory of one step."""

    step: int
    shards: tuple[int, ...]
    """The ranks whose shards of the optimizer's state it keeps."""
    has_model: bool
    """Whether it keeps the model and all else that every rank holds alike."""


@dataclass(frozen=True)
class Holdings:
    """What a rank that has lost a peer can save."""

    step: int | None = None
    """The finished step whose whole state it holds. None: there is none that may be saved."""
    copies: tuple[HeldCopy, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the holdings for a message."""
        copies = [{"step": c.step, "shards": list(c.shards), "has_model": c.has_model} for c in self.copies]
        return {"step": self.step} | ({"copies": copies} if copies else {})

    @classmethod
    def from_json(cls, message: dict[str, Any]) -> "Holdings":
        """Return the holdings that a message has."""
        copies = message.get("copies", ())
        return cls(
            message["step"], tuple(HeldCopy(c["step"], tuple(c["shards"]), c["has_model"]) for c in copies)
        )


@dataclass(frozen=True)
class Task:
    """What a rank that has lost a peer does before it ends."""

    saves: bool = False
    """Whether it saves a checkpoint."""
    copy: int | None = None
    """The step whose copies it uses. None: it uses its own state."""
    shards: tuple[int, ...] = ()
    """If another rank saves: the ranks whose shards it hands over."""

    def as_json(self) -> dict[str, Any]:
        """Return the task for a message."""
        own = {"copy": self.copy, "shards": list(self.shards)}
        return {"save": self.saves} | (own if self.copy is not None else {})

    @classmethod
    def from_json(cls, message: dict[str, Any]) -> "Task":
        """Return the task that a message has."""
        return cls(message["save"], message.get("copy"), tuple(message.get("shards", ())))


class Supervisor:
    """The supervisor from the point of view of a rank.

    Args:
        connection: socket whose other end the supervisor holds.
        on_lost_peer: called in a thread when the supervisor says that a peer is lost. It must end the rank's waits.
    """

    def __init__(self, connection: socket.socket, on_lost_peer: Callable[[], None]) -> None:
        self._connection, self._on_lost_peer = connection, on_lost_peer
        self._tasks = queue.SimpleQueue[Task]()
        self._reporting = threading.Lock()
        """Held by the thread that reports, for ever."""
        threading.Thread(target=self._listen, name="supervisor", daemon=True).start()

    @classmethod
    def of_this_process(cls, on_lost_peer: Callable[[], None]) -> "Supervisor | None":
        """Return the supervisor that the environment names. None: there is none. Call it once."""
        number = os.environ.get(SOCKET)
        return None if number is None else cls(socket.socket(fileno=int(number)), on_lost_peer)

    def report(self, holdings: Holdings) -> Task:
        """Report that a peer is lost, and wait until the supervisor has heard of all ranks.

        Args:
            holdings: what this rank can save.

        Returns what this rank has to do. If another thread has reported, it ends this process, and this call waits for
        that.
        """
        self._reporting.acquire()
        return self._exchange(holdings)

    def report_first(self, holdings: Holdings) -> Task | None:
        """Do the same unless another thread has reported. Then return None."""
        return self._exchange(holdings) if self._reporting.acquire(blocking=False) else None

    def _exchange(self, holdings: Holdings) -> Task:
        with suppress(OSError):  # the supervisor has ended
            send(self._connection, {"lost_peer": True, **holdings.as_json()})
        return self._tasks.get()

    def _listen(self) -> None:
        with suppress(OSError), self._connection.makefile("r") as lines:
            for message in map(json.loads, lines):
                if "save" in message:
                    self._tasks.put(Task.from_json(message))
                else:
                    self._on_lost_peer()
        self._tasks.put(Task())


def is_supervised() -> bool:
    """Return whether a supervisor restarts this process if another rank is lost."""
    return SOCKET in os.environ


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send a message as one line."""
    connection.sendall(json.dumps(message).encode() + b"\n")
