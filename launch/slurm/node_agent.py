"""The agent of a node of a SLURM job: starts the ranks of its node, forwards signals to them, and restarts them.

SLURM runs one agent on each node. The first one decides for all: it hears how ranks end and which finished step each
holds, names the rank that saves after a failure, and says when the ranks start again. An agent holds no state of the
training. It has imported all that ranks need, and its ranks are forks of it. It builds on sockets and not on
`torch.distributed.elastic`, whose agent starts each rank as a new process, has no place for a save between the loss of
a rank and the restart, and whose store has threads, with which a process cannot fork safely.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data_pipelines.log import LOGGER
from launch.local.processes import Failure, Recovery
from launch.local.rank_processes import RankProcess, start_rank
from launch.local.roll_call import RollCall
from launch.local.supervision import Supervision
from launch.local.worker import End
from launch.slurm.agent_links import FirstAgent, LaterAgent, Message
from launch.slurm.forwarded_signals import SignalForwarding
from trainer.distributed.rendezvous import MEETING

_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Place:
    """The place of a node in its job."""

    node: int
    """Number of the node, from 0."""
    nodes: int
    tasks: int
    """Number of ranks on each node."""
    first: str
    """Name or address of the first node."""
    meeting: str
    """Name that only this start of the job has."""


@dataclass
class _Ranks:
    """The ranks of this node in one start."""

    roll: RollCall = field(default_factory=RollCall)
    processes: dict[int, RankProcess] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)

    def kill(self) -> None:
        """End the ranks that still run."""
        for rank, process in self.processes.items():
            if rank not in self.codes and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


class NodeAgent:
    """Runs the ranks of this node.

    Args:
        place: this node.
        module: module of the ranks, as for `start_rank`.
        arguments: arguments of each rank.
        logs: folder of the ranks' output.
        forwarding: forwards signals to the ranks.
    """

    def __init__(
        self, place: Place, module: str, arguments: list[str], logs: Path, forwarding: SignalForwarding
    ) -> None:
        self.place, self._module, self._arguments, self._logs = place, module, arguments, logs
        self._forwarding = forwarding
        self._ranks = _Ranks()
        self._start = 0

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has asked to stop."""
        return bool(self._forwarding.received)

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the ranks of this node."""
        self._ranks.roll.close()
        place, self._ranks = self.place, _Ranks()
        self._start += 1
        for local in range(place.tasks):
            rank = place.node * place.tasks + local
            theirs, named = self._ranks.roll.connect(rank)
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(place.nodes * place.tasks),
                "LOCAL_WORLD_SIZE": str(place.tasks),
                "MASTER_ADDR": place.first,
                "ALL4ONE_PARENT": str(os.getpid()),
                MEETING: f"{place.meeting}.{self._start}",
                **environment,
                **named,
            }
            with theirs:
                log = self._logs / f"rank_{rank}.log"
                process = start_rank(self._module, self._arguments, variables, sockets=[theirs], log=log)
            self._ranks.processes[rank] = process
            self._forwarding.add(process.pid)

    def news(self) -> list[Message]:
        """Return what has happened to the ranks of this node since the last call."""
        found: list[Message] = []
        for rank, step in self._ranks.roll.read().items():
            found.append({"rank": rank, "holds": step})
        for rank, process in self._ranks.processes.items():
            if rank not in self._ranks.codes and (code := process.poll()) is not None:
                self._ranks.codes[rank] = code
                self._forwarding.remove(process.pid)
                found.append({"rank": rank, "code": code, "node": socket.gethostname()})
        return found

    def obey(self, message: Message) -> None:
        """Do what the first agent says."""
        if message["do"] == "start":
            self.start(message["environment"])
        elif message["do"] == "answer":
            self._ranks.roll.answer({int(rank): saves for rank, saves in message["saves"].items()})
        elif message["do"] == "kill":
            self._ranks.kill()

    def close(self) -> None:
        """End the ranks that still run, and close the connections to them."""
        self._ranks.kill()
        self._ranks.roll.close()


def follow(agent: NodeAgent, first: LaterAgent) -> End:
    """Run the ranks of a later node as the first agent says, until it says how they ended.

    Raises:
        AgentLost: the first agent is lost.
    """
    try:
        while True:
            for message in agent.news():
                first.send(message)
            for message in first.read():
                if message["do"] == "end":
                    return End(message["code"], message["reason"])
                agent.obey(message)
            time.sleep(_POLL_SECONDS)
    finally:
        agent.close()


def lead(
    agent: NodeAgent,
    others: FirstAgent,
    recovery: Recovery,
    reason: Callable[[int], str],
) -> End:
    """Run the ranks of the first node, decide for all nodes, and return how the ranks ended.

    Args:
        agent: the agent of this node.
        others: the other agents.
        recovery: decides whether the ranks start again after a failure.
        reason: returns the reason in the ledger for an exit code.

    Raises:
        AgentLost: the agent of another node is lost.
    """

    def tell(message: Message) -> None:
        others.send_all(message)
        agent.obey(message)

    try:
        while True:
            with recovery.forking():
                tell({"do": "start", "environment": dict(recovery.environment)})
            seen, hosts = _supervise(agent, others, tell)
            outcome = seen.outcome()
            if outcome.failed is None or agent.is_stopping:
                end = End(outcome.code, reason(outcome.code))
                break
            failed = outcome.failed
            message = _explain(failed, seen.codes[failed], hosts[failed])
            failure = Failure(outcome.code, message)
            if not recovery.restarts(failure):
                LOGGER.error("%s", failure.message)
                end = End(outcome.code, reason(outcome.code))
                break
        others.send_all({"do": "end", "code": end.code, "reason": end.reason})
        return end
    finally:
        agent.close()


def _supervise(
    agent: NodeAgent, others: FirstAgent, tell: Callable[[Message], None]
) -> tuple[Supervision, dict[int, str]]:
    """Wait until all ranks of one start have ended. Returns what is known of them, and the nodes of those that
    ended."""
    seen = Supervision(agent.place.nodes * agent.place.tasks, saves=True)
    hosts: dict[int, str] = {}
    killed = False
    while not seen.over:
        now = time.monotonic()
        for message in [*agent.news(), *others.read()]:
            if "holds" in message:
                seen.reports[message["rank"]] = message["holds"]
            else:
                seen.ended(message["rank"], message["code"], now)
                hosts[message["rank"]] = message["node"]
        if (saves := seen.answer(now)) is not None:
            tell({"do": "answer", "saves": {str(rank): one for rank, one in saves.items()}})
        if seen.must_end(now) and not killed:
            killed = True
            tell({"do": "kill"})
        time.sleep(_POLL_SECONDS)
    return seen, hosts


def _explain(rank: int, code: int, host: str) -> str:
    """Return the message on a rank's failure."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"rank {rank} on {host} was ended by {name}" + (
            " (out of memory?)" if name == "SIGKILL" else ""
        )
    return f"rank {rank} on {host} ended with code {code}: see rank_{rank}.log"
