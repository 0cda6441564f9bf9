"""Connections between the agents of a job's nodes: each sends lines of JSON to the first one, which sends them to all.

Both ends give signs of life, and the kernel of the other node acknowledges them, even if the agent there waits for a
file system. A node without power or network acknowledges nothing, and the connection ends with an error. The
connections need no thread, so that an agent can fork its ranks.
"""

import json
import os
import platform
import socket
import time
from contextlib import suppress
from typing import Any

from data_pipelines.errors import UserError
from trainer.distributed.cluster_store import listen, ports
from trainer.runs.supervisor import send

Message = dict[str, Any]
ARRIVE_S = 180.0
"""How long the first agent waits for the others before it goes on without them, seconds."""
JOIN_S = 900.0
"""How long the others try to reach the first agent, seconds. Its node may power on first."""
BEAT_S = 1.0
"""Time between two signs of life of an agent, seconds."""
LOST_AFTER_S, FIRST_LOST_AFTER_S = 5.0, 20.0
"""Time after which an agent is lost whose node acknowledges nothing, seconds: a later agent, and the first one."""
LOST_NODE = "was lost with its node"
"""What the message of a failure has if the rank did not fail by itself."""
_ANSWER_S, _LATE_ANSWER_S = 3.0, 0.5


class AgentLost(Exception):
    """The agent of another node has ended, or its node is not reachable.

    Args:
        why: what is known.
        is_silent: whether nothing closed the connection, so that the other node may be lost, or this one cut off.
    """

    def __init__(self, why: str, *, is_silent: bool = False) -> None:
        super().__init__(why)
        self.is_silent = is_silent


class _Line:
    """One connection, which is read without waiting.

    Args:
        connection: the connected socket.
        lost_after_s: time without an acknowledgment after which the other node is lost, seconds.
    """

    def __init__(self, connection: socket.socket, lost_after_s: float) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * lost_after_s))
        connection.setblocking(False)
        # A rank must not hold the connection of its agent open, nor shut it down.
        os.register_at_fork(after_in_child=connection.close)
        self.connection, self._lost_after_s = connection, lost_after_s
        self._received, self._beaten = b"", 0.0

    def read(self) -> list[Message]:
        """Return the messages that have arrived, and give a sign of life if it is time for one.

        Raises:
            AgentLost: the other end is closed, or its node is lost.
        """
        if (now := time.monotonic()) - self._beaten >= BEAT_S:
            self._beaten = now
            self.send({"beat": True})
        try:
            data = self.connection.recv(2**16)
        except BlockingIOError:
            return []
        except OSError as error:
            raise self._loss(error) from None
        if not data:
            raise AgentLost("the connection was closed")
        *whole, self._received = (self._received + data).split(b"\n")
        return [message for line in whole if "beat" not in (message := json.loads(line))]

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            AgentLost: the other end is closed, or its node is lost.
        """
        try:
            send(self.connection, message)
        except OSError as error:
            raise self._loss(error) from None

    def _loss(self, error: OSError) -> AgentLost:
        if isinstance(error, ConnectionError):
            return AgentLost("the connection was closed")
        if isinstance(error, TimeoutError):
            return AgentLost(f"it acknowledged nothing for {self._lost_after_s:g} s", is_silent=True)
        return AgentLost(error.strerror or str(error), is_silent=True)


class FirstAgent:
    """The first node's ends of the connections to all other agents.

    Args:
        meeting: name that only the agents of this start of the job share.
        nodes: number of nodes. Those whose agents do not come in time are lost.
    """

    def __init__(self, meeting: str, nodes: int) -> None:
        self._lines: dict[int, _Line] = {}
        self.names: dict[int, str] = {}
        """Host name of each other agent, by the number of its node, also of those that are lost."""
        self.lost: dict[int, str] = {}
        """Why each lost agent is lost, by the number of its node."""
        self._meeting, self._late = meeting, list[int]()
        self._listener: socket.socket | None = None
        if nodes == 1:
            return
        self._listener = _listen(meeting)
        os.register_at_fork(after_in_child=self._listener.close)  # a rank must not hold it open
        deadline = time.monotonic() + ARRIVE_S
        while len(self._lines) < nodes - 1 and (left := deadline - time.monotonic()) > 0:
            self._take_in(left, _ANSWER_S)
        for node in set(range(1, nodes)) - self._lines.keys():
            self.lost[node] = f"its agent did not come within {ARRIVE_S:g} s"

    def _take_in(self, wait_s: float, answer_s: float) -> int | None:
        """Wait for an agent that names the meeting, and hang up on anything else. Returns the number of its node."""
        assert self._listener is not None
        self._listener.settimeout(wait_s)
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, TimeoutError):
            return None
        connection.settimeout(answer_s)
        try:
            hello = json.loads(_first_line(connection))
            if hello["meeting"] != self._meeting:
                raise ValueError
            send(connection, {"meeting": self._meeting})
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()
            return None
        node = int(hello["node"])
        self._lines[node] = _Line(connection, LOST_AFTER_S)
        self.names[node] = hello["name"]
        return node

    @property
    def connections(self) -> list[socket.socket]:
        """Open connections, and the socket at which late agents knock."""
        listening = [] if self._listener is None else [self._listener]
        return [*listening, *(line.connection for line in self._lines.values())]

    def read(self) -> list[Message]:
        """Return the messages of all other agents that have arrived. `{"lost": node}` says that an agent is lost."""
        found: list[Message] = []
        if self._listener is not None and (node := self._take_in(0.0, _LATE_ANSWER_S)) is not None:
            self._late.append(node)
        for node, line in list(self._lines.items()):
            try:
                found += line.read()
            except AgentLost as error:
                self._lines.pop(node).connection.close()  # if the agent lives, it ends its ranks and itself
                self.lost[node] = str(error)
                found.append({"lost": node})
        return found

    def take_late(self) -> list[int]:
        """Return the nodes whose agents have come late since the last call. They are lost no more."""
        late, self._late = [node for node in self._late if node in self._lines], []
        for node in late:
            self.lost.pop(node, None)
        return late

    def send_all(self, message: Message) -> None:
        """Send a message to all other agents that are not lost. `read` tells of those that cannot be reached."""
        for line in self._lines.values():
            with suppress(AgentLost):
                line.send(message)


class LaterAgent:
    """Another node's connection to the first agent.

    Args:
        meeting: name that only the agents of this start of the job share.
        first: name or address of the first node.
        node: number of this node in the job.
    """

    def __init__(self, meeting: str, first: str, node: int) -> None:
        deadline = time.monotonic() + JOIN_S
        while time.monotonic() < deadline:
            for port in ports(meeting):
                if (connection := _join(meeting, first, port, node)) is not None:
                    self._line = _Line(connection, FIRST_LOST_AFTER_S)
                    return
            time.sleep(0.1)
        raise UserError(
            f"the agent of the first node did not answer within {JOIN_S:g} s",
            where=first,
            fix=f"read its log. A firewall may separate it from {platform.node()}",
        )

    @property
    def connections(self) -> list[socket.socket]:
        """The connection."""
        return [self._line.connection]

    def read(self) -> list[Message]:
        """Return the messages of the first agent that have arrived. Raises `AgentLost` if it is lost."""
        return self._line.read()

    def send(self, message: Message) -> None:
        """Send a message to the first agent. Raises `AgentLost` if it is lost."""
        self._line.send(message)


def _listen(meeting: str) -> socket.socket:
    """Listen on the first free port of a meeting."""
    for port in ports(meeting):
        with suppress(OSError):
            return listen(port)
    tried = ports(meeting)
    raise UserError(
        f"none of the ports that this job may use ({tried[0]} to {tried[-1]}) is free",
        where=platform.node(),
        fix="end the programs that listen there (`ss -ltnp` lists them), or submit the job again: it then uses others",
    )


def _join(meeting: str, first: str, port: int, node: int) -> socket.socket | None:
    """Return a connection to the first agent. None: nobody, or a foreign server, listens at the port."""
    try:
        connection = socket.create_connection((first, port), timeout=_ANSWER_S)
    except OSError:
        return None
    try:
        send(connection, {"meeting": meeting, "node": node, "name": os.uname().nodename})
        if json.loads(_first_line(connection)) == {"meeting": meeting}:
            return connection
    except (OSError, ValueError):
        pass
    connection.close()
    return None


def _first_line(connection: socket.socket) -> bytes:
    """Read one line, and nothing of what follows it."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 1000 and (byte := connection.recv(1)):
        line += byte
    return line
