"""How the ranks of several nodes meet: at a store that rank 0 opens on its node.

The usual port is one number that all ranks compute from the job. It may be taken, and a number of the ephemeral range
(32768 and above on Linux) often is. Here all ranks compute a few ports below that range. Rank 0 takes two that are
free: one for the store, and one at which it tells the others where the store is. A store cannot be looked for directly,
since torch waits for minutes for the answer of a foreign server.

Loads torch only with the store: the agents of a job meet at such ports before they import it.
"""

import errno
import platform
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from data_pipelines.errors import UserError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

LOWEST_PORT, HIGHEST_PORT = 20_000, 32_767
TRIED = 8
"""Number of ports that rank 0 tries."""
ANSWER_S = 3.0
"""How long a server may take to prove that it is rank 0, seconds."""
LOOKUP_S = 60.0
"""How long a name server may be too busy to answer, seconds. Many nodes start at once."""
MEETING_S = 900.0
"""How long a rank waits for rank 0, seconds."""


def ports(meeting: str) -> range:
    """Return the ports that a meeting may use."""
    first = LOWEST_PORT + zlib.crc32(meeting.encode()) % (HIGHEST_PORT - LOWEST_PORT - TRIED)
    return range(first, first + TRIED)


@contextmanager
def cluster_store(
    meeting: str, node: str, *, is_first: bool, patience_s: float = MEETING_S
) -> Iterator["TCPStore"]:
    """Give the store of a process group of several nodes. Until the context ends, rank 0 tells others where it is.

    Args:
        meeting: name that only the ranks of this group share.
        node: name or address of the node of rank 0.
        is_first: whether this is rank 0, which opens the store.
        patience_s: how long to wait for rank 0, seconds.

    Raises:
        UserError: the node's name does not resolve, too few ports are free, or rank 0 did not come.
    """
    from torch.distributed import TCPStore

    _require_name(node, time.monotonic() + min(LOOKUP_S, patience_s))
    if not is_first:
        yield TCPStore(node, _find(meeting, node, time.monotonic() + patience_s), wait_for_workers=False)
        return
    told, listener = _free(ports(meeting))  # in this order, the others meet `told` first
    port = listener.getsockname()[1]
    store = TCPStore(node, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    with told:
        threading.Thread(target=_tell, args=(told, _line(meeting, port)), daemon=True).start()
        yield store
        with suppress(OSError):
            told.shutdown(socket.SHUT_RDWR)  # ends the thread's wait


def _require_name(node: str, deadline: float) -> None:
    """Raise a UserError if a node's name does not resolve. A name server that is busy for a moment is asked again."""
    while True:
        try:
            socket.getaddrinfo(node, None)
            return
        except OSError as error:
            if error.errno == socket.EAI_AGAIN and time.monotonic() < deadline:
                time.sleep(0.5)
                continue
            raise UserError(
                f"the name of the first node, {node}, does not resolve ({error.strerror})",
                where=platform.node(),
                fix="make the nodes know each other's names, for example in /etc/hosts, or exclude this node with "
                "--exclude",
            ) from None


def _free(candidates: Sequence[int]) -> list[socket.socket]:
    """Return two listening sockets."""
    found: list[socket.socket] = []
    for port in candidates:
        with suppress(OSError):
            found.append(listen(port))
        if len(found) == 2:
            return found
    for listener in found:
        listener.close()
    raise UserError(
        f"fewer than two of the ports that this job may use ({candidates[0]} to {candidates[-1]}) are free",
        where=platform.node(),
        fix="end the programs that listen there (`ss -ltnp` lists them), or submit the job again: it then uses others",
    )


def listen(port: int) -> socket.socket:
    """Listen on all addresses. Other nodes may reach this one by another address than its name resolves to here.

    One socket takes connections by IPv6 and by IPv4, so both kinds of clusters can meet, and mixed ones too.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise  # perhaps by IPv6 only, and IPv4 would then reach another program than IPv6
    return socket.create_server(("", port), backlog=1024)


def _tell(listener: socket.socket, line: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the meeting is over
            return
        with connection, suppress(OSError):
            connection.sendall(line)


def _line(meeting: str, port: int) -> bytes:
    return f"{meeting} {port}\n".encode()


def _find(meeting: str, node: str, deadline: float) -> int:
    """Return the store's port. Rank 0 may start later than this rank."""
    while time.monotonic() < deadline:
        for port in ports(meeting):
            if (found := _ask(meeting, node, port)) is not None:
                return found
        time.sleep(0.1)
    raise UserError(
        f"the first rank did not come to the meeting on ports {ports(meeting)[0]} to {ports(meeting)[-1]}",
        where=node,
        fix=f"read the log of rank 0. If it waits there too, a firewall may separate it from {platform.node()}",
    )


def _ask(meeting: str, node: str, port: int) -> int | None:
    """Return the store's port if rank 0 answers at `port`. None: nobody or a foreign server listens there."""
    try:
        with socket.create_connection((node, port), timeout=ANSWER_S) as connection:
            answer = connection.makefile("rb").readline(200)
    except OSError:
        return None
    return next((known for known in ports(meeting) if answer == _line(meeting, known)), None)
