"""The agent of a node of a SLURM job: starts the ranks of its node, forwards signals to them, and restarts them.

SLURM runs one agent on each node. The first one decides for all (`first_agent.py`). An agent holds no state of the
training. It has imported all that ranks need, and its ranks are forks of it. The agent of a spare node imports that
later, so that it takes no time from the ranks while they start. It builds on sockets and not on
`torch.distributed.elastic`, whose agent starts each rank as a new process, has no place for a save between the loss of
a rank and the restart, and whose store has threads, with which a process cannot fork safely.
"""

import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launch.local.memory_kills import memory_kills, why_killed
from launch.local.rank_processes import RankProcess, prepare, start_rank
from launch.local.rank_records import RankRecords, send_signal
from launch.local.roll_call import RollCall
from launch.local.run_watch import LOOK_SECONDS, Order
from launch.local.standard_files import open_log, write_output_to
from launch.local.wakeups import Wakeups
from launch.local.worker import End
from launch.slurm.agent_links import LaterAgent, Message
from launch.slurm.check_process import CheckProcess
from launch.slurm.forwarded_signals import SignalForwarding
from trainer.distributed.rendezvous import MEETING
from trainer.runs.supervisor import Task

_RECORD_SECONDS = 1.0
"""Time between two messages on what the ranks do."""


@dataclass(frozen=True)
class Place:
    """The place of a node in its job."""

    node: int
    """Number of the node, from 0."""
    tasks: int
    """Number of ranks on each node."""
    hosts: Sequence[str]
    """Names or addresses of all nodes of the job, spares included, by the number of the node."""
    meeting: str
    """Name that only this start of the job has."""

    @property
    def nodes(self) -> int:
        """Number of nodes of the job, spares included."""
        return len(self.hosts)

    @property
    def first(self) -> str:
        """Name or address of the first node."""
        return self.hosts[0]


@dataclass
class _Ranks:
    """The ranks of this node in one start."""

    roll: RollCall = field(default_factory=RollCall)
    records: RankRecords = field(default_factory=RankRecords)
    wakeups: Wakeups = field(default_factory=Wakeups)
    next_states: float = 0.0
    processes: dict[int, RankProcess] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)
    memory_kills: int | None = field(default_factory=memory_kills)
    """Processes that had been killed for lack of memory before this start."""

    def kill(self) -> None:
        """End the ranks that still run."""
        for rank, process in self.processes.items():
            if rank not in self.codes and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()

    def states(self) -> list[Message]:
        """Return what the ranks do, once a second."""
        now = time.monotonic()
        if now < self.next_states or not (states := self.records.read()):
            return []
        self.next_states = now + _RECORD_SECONDS
        return [{"states": {str(rank): state.as_json() for rank, state in states.items()}}]

    def answer_hang(self, order: Order, hung: list[int]) -> None:
        """Do what the first agent orders about ranks that hang."""
        if order is Order.WRITE_STACKS:
            self.records.request_stacks()
        elif order is Order.PRINT_STACKS:
            self.records.print_stacks(hung, self.processes)
        else:
            for rank in self.processes.keys() & set(hung):
                send_signal(self.processes[rank], signal.SIGKILL)

    def close(self) -> None:
        """Close the connections to the ranks, and release their records."""
        self.wakeups.close()
        self.roll.close()
        self.records.close()


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
        self._check: CheckProcess | None = None
        self.is_prepared = False
        """Whether it has imported what the ranks need."""

    @property
    def is_stopping(self) -> bool:
        """Whether a signal has asked to stop."""
        return bool(self._forwarding.received)

    def log_of(self, rank: int) -> Path:
        """Return the file with a rank's output, which all nodes can read."""
        return self._logs / f"rank_{rank}.log"

    def prepare(self) -> None:
        """Import what the ranks need, which takes seconds, unless that is done."""
        if not self.is_prepared:
            self.is_prepared = True
            prepare(self._module)

    def start(self, message: Message) -> None:
        """Start the ranks of this node.

        Args:
            message: `number` of this start, `crew`: the nodes that have ranks, in the order of these, and additional
                variables of the ranks as `environment`. A node outside of the crew is a spare.
        """
        self._end_check()
        self._ranks.close()
        place, crew, self._ranks = self.place, message["crew"], _Ranks()
        if place.node == 0 and crew[0] != 0:
            # Rank 0 of another node now writes to the log of this agent, and two nodes must not append to one file.
            write_output_to(open_log(self._logs / "node_0.log"))
        if place.node not in crew:
            return
        self.prepare()
        for local in range(place.tasks):
            rank = crew.index(place.node) * place.tasks + local
            theirs, named = self._ranks.roll.connect(rank)
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(local),
                "WORLD_SIZE": str(len(crew) * place.tasks),
                "LOCAL_WORLD_SIZE": str(place.tasks),
                "MASTER_ADDR": place.hosts[crew[0]],
                "ALL4ONE_PARENT": str(os.getpid()),
                MEETING: f"{place.meeting}.{message['number']}",
                **message["environment"],
                **named,
            }
            with theirs:
                record, log = self._ranks.records.add(rank), self.log_of(rank)
                process = start_rank(
                    self._module, self._arguments, variables, sockets=[theirs], record=record, log=log
                )
            self._ranks.processes[rank] = process
            self._forwarding.add(process.pid)

    def news(self) -> list[Message]:
        """Return what has happened to the ranks of this node, and to its check, since the last call."""
        found = [*self._news_of_check(), *self._ranks.states()]
        for rank, holdings in self._ranks.roll.read().items():
            found.append({"rank": rank, "holds": holdings.as_json()})
        for rank, process in self._ranks.processes.items():
            if rank not in self._ranks.codes and (code := process.poll()) is not None:
                self._ranks.codes[rank] = code
                self._forwarding.remove(process.pid)
                why = why_killed(self._ranks.memory_kills) if code == -signal.SIGKILL else ""
                found.append({"rank": rank, "code": code, "node": socket.gethostname(), "why": why})
        return found

    def wait(self, connections: Sequence[socket.socket]) -> None:
        """Wait until there is news of this node, or of other agents, or it is time to look at the records.

        Args:
            connections: connections to other agents.
        """
        ranks = self._ranks
        check = [] if self._check is None else self._check.connections
        running = [process.pid for rank, process in ranks.processes.items() if rank not in ranks.codes]
        ranks.wakeups.wait(running, [*connections, *ranks.roll.connections, *check], LOOK_SECONDS)

    def obey(self, message: Message) -> None:
        """Do what the first agent says."""
        if message["do"] == "start":
            self.start(message)
        elif message["do"] == "interrupt":
            self._ranks.roll.interrupt()
        elif message["do"] == "answer":
            tasks = {int(rank): Task.from_json(task) for rank, task in message["tasks"].items()}
            self._ranks.roll.answer(tasks)
        elif message["do"] == "kill":
            self._ranks.kill()
        elif message["do"] == "hang":
            self._ranks.answer_hang(Order(message["order"]), message["ranks"])
        elif message["do"] == "prepare":
            self.prepare()
        elif message["do"] == "check":
            self.prepare()
            self._check = CheckProcess(self.place.node, message["measure"])
        elif message["do"] == "ask check" and self._check is not None:
            self._check.ask(message["orders"].get(str(self.place.node)))
        elif message["do"] == "end check":
            self._end_check()

    def _news_of_check(self) -> list[Message]:
        """Return what the check of this node has found. A signal that asks to stop ends it."""
        if self._check is None:
            return []
        found = self._check.read()
        if self.is_stopping:
            self._end_check()
            found.append({"stopped": True})
        return [{"checked": one, "node": self.place.node} for one in found]

    def _end_check(self) -> None:
        if self._check is not None:
            self._check.close()
            self._check = None

    def close(self) -> None:
        """End the ranks that still run and the check, and close the connections to them."""
        self._end_check()
        self._ranks.kill()
        self._ranks.close()


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
            agent.wait(first.connections)
    finally:
        agent.close()
