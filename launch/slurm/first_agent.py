"""What the first agent of a job decides for all: who saves after a failure, and which nodes the ranks start again on.

It hears how ranks end and what each holds of the last steps. A spare node takes the place of one that is lost. Without
a spare, the ranks start again on the nodes that are left, if the run allows it. Otherwise SLURM has to start the job
again.
"""

import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from data_pipelines.log import LOGGER
from launch.local.last_words import last_lines, last_words
from launch.local.processes import Failure, Recovery
from launch.local.run_watch import RunWatch
from launch.local.supervision import Supervision
from launch.local.wakeups import BUSY_SECONDS
from launch.local.worker import End
from launch.slurm.agent_links import LOST_NODE, FirstAgent, Message
from launch.slurm.hostlist import short_hostlist
from launch.slurm.node_agent import NodeAgent
from launch.slurm.rank_of_job import NODES, SPARE_DEVICES
from launch.slurm.start_check import CheckPlan, StartCheck
from trainer.distributed.rank_state import RankState
from trainer.runs.end_reasons import ExitCode
from trainer.runs.supervisor import Holdings

_LOST = -signal.SIGKILL
"""Code of a rank whose node is lost. If it still runs, its agent will end it."""


@dataclass(frozen=True)
class Outlook:
    """What the first agent asks before the ranks start, and at their end.

    Args:
        recovery: decides whether the ranks start again after a failure.
        may_have: returns whether the run may go on with another number of ranks.
        reason: returns the reason in the ledger for an exit code.
        give_up: records a failure after which only SLURM can help, and asks it to start the job again. Returns the
            reason in the ledger.
        check: how the nodes are checked before the ranks start. None: they are not.
    """

    recovery: Recovery
    may_have: Callable[[int], bool]
    reason: Callable[[int], str]
    give_up: Callable[[Failure], str]
    check: CheckPlan | None = None


@dataclass
class _Seen:
    """What is known of the ranks of one start."""

    ranks: Supervision
    watch: RunWatch
    hosts: dict[int, str] = field(default_factory=dict)
    """Nodes of the ranks that have ended."""
    whys: dict[int, str] = field(default_factory=dict)
    """What is known besides the code of those that SIGKILL has ended."""
    states: dict[int, RankState] = field(default_factory=dict)
    """What each rank does."""


class Lead:
    """The first agent's view of all nodes.

    Args:
        agent: the agent of the first node.
        others: the other agents.
        nodes: number of nodes that have ranks. The others are spares.
        outlook: what the first agent asks.
    """

    def __init__(self, agent: NodeAgent, others: FirstAgent, nodes: int, outlook: Outlook) -> None:
        self._agent, self._others, self._outlook = agent, others, outlook
        self._crew = list(range(nodes))
        self._spares = list(range(nodes, agent.place.nodes))
        self._starts = 0
        self._spares_import = False
        """Whether the spares have been told to import what ranks need."""

    def run(self) -> End:
        """Run the ranks until they have ended, and start them again where this helps. Returns how they ended."""
        try:
            if self._others.lost and not self._man():
                return self._end(self._give_up(Failure(ExitCode.LOST_PEER, self._missing())))
            if self._outlook.check is not None:
                self._check(self._outlook.check)
            while True:
                with self._outlook.recovery.forking():
                    self._start()
                seen = self._supervise()
                outcome = seen.ranks.outcome()
                if outcome.failed is None or self._agent.is_stopping:
                    end = End(outcome.code, self._outlook.reason(outcome.code))
                    break
                hung = seen.watch.message()
                failure = Failure(
                    ExitCode.STALLED if hung else outcome.code,
                    hung or self._explain(outcome.failed, seen),
                    hung=hung is not None,
                )
                if not self._man():
                    end = self._give_up(failure)
                    break
                if not self._outlook.recovery.restarts(failure):
                    LOGGER.error("%s", failure.message)
                    end = End(failure.code, self._outlook.reason(failure.code))
                    break
            return self._end(end)
        finally:
            self._agent.close()

    def _end(self, end: End) -> End:
        """Tell all agents how the ranks ended."""
        self._others.send_all({"do": "end", "code": end.code, "reason": end.reason})
        return end

    def _give_up(self, failure: Failure) -> End:
        LOGGER.error("%s. No spare node is left, and the run cannot shrink", failure.message)
        return End(ExitCode.LOST_PEER, self._outlook.give_up(failure))

    def _missing(self) -> str:
        """Return the message on nodes whose agents did not come."""
        lost = [node for node in self._crew if node in self._others.lost]
        return "; ".join(f"node {self._names(node)[0]} is lost: {self._others.lost[node]}" for node in lost)

    def _check(self, plan: CheckPlan) -> None:
        """Check all nodes, and give the places of bad ones to spares."""
        check = StartCheck(self._agent, self._others, plan)
        with self._outlook.recovery.forking():
            check.begin()
        self._crew, self._spares = check.finish(self._crew, self._spares)

    def _start(self) -> None:
        self._starts += 1
        spares = self._agent.place.nodes - len(self._crew)
        environment = {
            NODES: short_hostlist(self._names(*self._crew)),
            SPARE_DEVICES: str(spares * self._agent.place.tasks),
        }
        self._tell(
            {
                "do": "start",
                "number": self._starts,
                "crew": self._crew,
                "environment": environment | dict(self._outlook.recovery.environment),
            }
        )

    def _man(self) -> bool:
        """Fill the places of lost nodes with spares, or leave them out. Returns whether the ranks can start again."""
        for node in self._others.take_late():
            LOGGER.warning("node %s has come late, and is a spare now", *self._names(node))
            self._spares.append(node)
        lost = self._others.lost
        self._spares = [node for node in self._spares if node not in lost]
        for place, node in enumerate(self._crew):
            if node in lost and self._spares:
                self._crew[place] = self._spares.pop(0)
                LOGGER.warning("node %s takes the place of %s", *self._names(self._crew[place], node))
        left = [node for node in self._crew if node not in lost]
        if len(left) < len(self._crew):
            ranks = len(left) * self._agent.place.tasks
            if not self._outlook.may_have(ranks):
                return False
            LOGGER.warning("no spare node is left: the run goes on with %d ranks", ranks)
            self._crew = left
        return True

    def _names(self, *nodes: int) -> list[str]:
        own, hosts = socket.gethostname(), self._agent.place.hosts
        return [self._others.names.get(node) or (hosts[node] if node else own) for node in nodes]

    def _tell(self, message: Message) -> None:
        self._others.send_all(message)
        self._agent.obey(message)

    def _supervise(self) -> _Seen:
        """Wait until all ranks of one start have ended."""
        tasks = self._agent.place.tasks
        size = len(self._crew) * tasks
        names = self._names(*self._crew)
        watch = self._outlook.recovery.watch({rank: names[rank // tasks] for rank in range(size)})
        seen = _Seen(Supervision(size, saves=True), watch)
        ranks, killed = seen.ranks, False
        for node in self._others.lost.keys() & self._crew:
            self._note_lost(node, seen)
        while not ranks.over:
            now = time.monotonic()
            for message in [*self._agent.news(), *self._others.read()]:
                if "checked" in message:
                    continue  # it came after the end of the check
                if "lost" in message:
                    self._note_lost(message["lost"], seen)
                elif "states" in message:
                    found = {int(r): RankState.from_json(one) for r, one in message["states"].items()}
                    seen.states.update(found)
                    self._let_spares_import(found.values())
                elif "holds" in message:
                    ranks.reports[message["rank"]] = Holdings.from_json(message["holds"])
                else:
                    ranks.ended(message["rank"], message["code"], now)
                    seen.hosts[message["rank"]] = message["node"]
                    seen.whys[message["rank"]] = message["why"]
            if ranks.must_interrupt(now):
                self._tell({"do": "interrupt"})
            if (answers := ranks.answer(now)) is not None:
                named = {str(rank): task.as_json() for rank, task in answers.items()}
                self._tell({"do": "answer", "tasks": named})
            if not ranks.codes and (order := watch.look(lambda: seen.states, now)):
                self._tell({"do": "hang", "order": order, "ranks": watch.hung_ranks})
            if ranks.must_end(now) and not killed:
                killed = True
                self._tell({"do": "kill"})
            if ranks.codes:
                time.sleep(BUSY_SECONDS)
            else:
                self._agent.wait(self._others.connections)
        watch.finish()
        return seen

    def _let_spares_import(self, states: Iterable[RankState]) -> None:
        """Tell the spares to import what ranks need as soon as a rank has made a step."""
        if not self._spares_import and any(state.compute_seconds for state in states):
            self._spares_import = True
            self._others.send_all({"do": "prepare"})

    def _note_lost(self, node: int, seen: _Seen) -> None:
        """Note that the agent of a node is lost, and so are its ranks. The others may not notice that by themselves: a
        machine without power closes no connection."""
        (name,) = self._names(node)
        if node not in self._crew:
            LOGGER.warning("spare node %s is lost: %s", name, self._others.lost[node])
            return
        tasks = self._agent.place.tasks
        for rank in range(self._crew.index(node) * tasks, (self._crew.index(node) + 1) * tasks):
            seen.ranks.ended(rank, _LOST, time.monotonic())
            seen.hosts.setdefault(rank, name)
        self._tell({"do": "interrupt"})

    def _explain(self, rank: int, seen: _Seen) -> str:
        """Return the message on a rank's failure."""
        host, code = seen.hosts[rank], seen.ranks.codes[rank]
        node = self._crew[rank // self._agent.place.tasks]
        if node in self._others.lost:
            return f"rank {rank} on {host} {LOST_NODE}: {self._others.lost[node]}"
        if code < 0:
            return f"rank {rank} on {host} was ended by {signal.Signals(-code).name}{seen.whys[rank]}"
        said = last_words(last_lines(self._agent.log_of(rank)), code)
        return f"rank {rank} on {host} ended with code {code}{said and f': {said}'}; see rank_{rank}.log"
