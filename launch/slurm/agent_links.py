"""Connections between the agents of a job's nodes: each sends lines of JSON to the first one, which sends them to all.

The connections need no thread, so that an agent can fork its ranks.
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
JOIN_S = 900.0
"""How long the agents wait for each other, seconds. Nodes may power on first."""
BEAT_S = 1.0
"""Time between two signs of life of an agent, seconds."""
SILENT_S = 5.0
"""Time without a sign of life after which an agent is lost, seconds."""
FIRST_SILENT_S = 15.0
"""The same for the first agent, which also reads and writes the run's folder, seconds."""
_LONGEST_PAUSE_S = 0.5
"""What a pause between two looks counts at most, seconds. If the first agent itself stood still, the others may have
lived on."""
_ANSWER_S = 3.0
_UNANSWERED_MS = 20_000
"""Time after which the kernel gives up a connection whose other end answers nothing, milliseconds."""


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
    """One connection, which is read without waiting."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS)
        connection.setblocking(False)
        # A rank must not hold the connection of its agent open, nor shut it down.
        os.register_at_fork(after_in_child=connection.close)
        self.connection, self._received = connection, b""

    def read(self) -> list[Message]:
        """Return the messages that have arrived.

        Raises:
            AgentLost: the other end is closed.
        """
        try:
            data = self.connection.recv(2**16)
        except BlockingIOError:
            return []
        except OSError as error:
            raise AgentLost(str(error), is_silent=not isinstance(error, ConnectionError)) from None
        if not data:
            raise AgentLost("the connection was closed")
        *whole, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in whole]

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            AgentLost: the other end is closed.
        """
        try:
            send(self.connection, message)
        except OSError as error:
            raise AgentLost(str(error), is_silent=not isinstance(error, ConnectionError)) from None


class _Pulse:
    """Gives a sign of life at times, and measures the silence of another agent, once that has said something.

    Args:
        silent_s: silence after which the other agent is lost, seconds.
    """

    def __init__(self, silent_s: float) -> None:
        self._silent_s, self._silence, self._has_spoken = silent_s, 0.0, False
        self._looked, self._beaten = time.monotonic(), 0.0

    def look(self, line: _Line) -> list[Message]:
        """Give a sign of life if it is time for one. Return the messages that have arrived.

        Raises:
            AgentLost: the other agent has ended, or has been silent for too long.
        """
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LONGEST_PAUSE_S), now
        messages = line.read()
        self._has_spoken |= bool(messages)
        self._silence = 0.0 if messages else self._silence + passed
        if self._has_spoken and self._silence > self._silent_s:
            raise AgentLost(f"it gave no sign of life for {self._silent_s:g} s", is_silent=True)
        if now - self._beaten >= BEAT_S:
            self._beaten = now
            line.send({"beat": True})
        return [message for message in messages if "beat" not in message]


class FirstAgent:
    """The first node's ends of the connections to all other agents.

    Args:
        meeting: name that only the agents of this start of the job share.
        nodes: number of nodes.
    """

    def __init__(self, meeting: str, nodes: int) -> None:
        self._lines: dict[int, _Line] = {}
        self.names: dict[int, str] = {}
        """Host name of each other agent, by the number of its node, also of those that are lost."""
        self.lost: dict[int, str] = {}
        """Why each lost agent is lost, by the number of its node."""
        self._pulses: dict[int, _Pulse] = {}
        if nodes == 1:
            return
        with _listen(meeting) as listener:
            deadline = time.monotonic() + JOIN_S
            while len(self._lines) < nodes - 1:
                listener.settimeout(max(0.0, deadline - time.monotonic()))
                try:
                    connection, _ = listener.accept()
                    self._welcome(connection, meeting)
                except TimeoutError:
                    missing = sorted(set(range(1, nodes)) - self._lines.keys())
                    raise UserError(
                        f"the agents of nodes {missing} of the job did not come within {JOIN_S:g} s",
                        where=platform.node(),
                        fix="read their logs. A firewall may separate them from this node",
                    ) from None

    def _welcome(self, connection: socket.socket, meeting: str) -> None:
        """Take in an agent that names the meeting, and hang up on anything else."""
        connection.settimeout(_ANSWER_S)
        try:
            hello = json.loads(_first_line(connection))
            if hello["meeting"] != meeting:
                raise ValueError
            send(connection, {"meeting": meeting})
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()
            return
        node = hello["node"]
        self._lines[node], self._pulses[node], self.names[node] = (
            _Line(connection),
            _Pulse(SILENT_S),
            hello["name"],
        )

    def read(self) -> list[Message]:
        """Return the messages of all other agents that have arrived. `{"lost": node}` says that an agent is lost."""
        found: list[Message] = []
        for node, line in list(self._lines.items()):
            try:
                found += self._pulses[node].look(line)
            except AgentLost as error:
                self._lines.pop(node).connection.close()  # if the agent lives, it ends its ranks and itself
                self.lost[node] = str(error)
                found.append({"lost": node})
        return found

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
                    self._line, self._pulse = _Line(connection), _Pulse(FIRST_SILENT_S)
                    return
            time.sleep(0.1)
        raise UserError(
            f"the agent of the first node did not answer within {JOIN_S:g} s",
            where=first,
            fix=f"read its log. A firewall may separate it from {platform.node()}",
        )

    def read(self) -> list[Message]:
        """Return the messages of the first agent that have arrived. Raises `AgentLost` if it is lost."""
        return self._pulse.look(self._line)

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
