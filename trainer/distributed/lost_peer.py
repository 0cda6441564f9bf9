"""The loss of another rank, as this rank sees it. Loads no torch."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SIGNS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exiting prematurely",
)
"""What messages of gloo, and the last one of NCCL, say if the process at the other end of a connection has ended."""
_DESCRIPTORS = Path("/proc/self/fd")


class LostPeer(RuntimeError):
    """Another rank has ended, as its closed connection shows."""


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an exception says that another rank has ended."""
    return isinstance(error, LostPeer) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    )


@dataclass(frozen=True)
class Connections:
    """The TCP connections that this process had at one time.

    `destroy_process_group` waits for pending collectives, which may never end, and `abort` does not close gloo's
    connections (torch 2.14). A rank that is left closes them itself. Otherwise a rank that waits for a message from it
    would not learn that another one is lost.
    """

    inodes: dict[int, str]
    """What identifies each connection, by file descriptor."""

    @classmethod
    def of_this_process(cls) -> "Connections":
        """Return all TCP connections of this process."""
        numbers = [int(path.name) for path in _DESCRIPTORS.iterdir()] if _DESCRIPTORS.is_dir() else []
        return cls({number: inode for number in numbers if (inode := _connection(number))})

    def __sub__(self, others: "Connections") -> "Connections":
        """Return those that are not among others."""
        known = set(others.inodes.values())
        return Connections({number: one for number, one in self.inodes.items() if one not in known})

    def all_open(self) -> bool:
        """Whether this process has closed none of them. gloo closes the connection to a rank that has ended."""
        return all(_connection(number) == inode for number, inode in self.inodes.items())

    def shut_down(self) -> None:
        """Shut down those that are still there. Their other ends learn it at once."""
        for number, inode in self.inodes.items():
            if _connection(number) == inode:
                with suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)


def _connection(number: int) -> str:
    """Return what identifies a TCP connection by its file descriptor. Empty: it is none."""
    try:
        inode = str((_DESCRIPTORS / str(number)).readlink())
        if not inode.startswith("socket:"):
            return ""
        with socket.socket(fileno=os.dup(number)) as found:
            is_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
            listens = is_tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return inode if is_tcp and not listens else ""
    except OSError:  # closed meanwhile
        return ""
