"""The check of all nodes of a job before its ranks start, from the first agent's point of view.

Each agent starts a process that measures its node. The first agent tells them which pairs of nodes measure their link,
collects the rates, and decides which nodes get ranks.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.log import LOGGER
from launch.node_check.comparison import Pair, first_round, second_round, slow_nodes
from launch.node_check.node_verdict import CHECK, Manning, Verdict, judge_nodes, man
from launch.node_check.rates import NodeRates, better_rates
from launch.slurm.agent_links import JOIN_S, FirstAgent, Message
from launch.slurm.node_agent import NodeAgent

SECONDS = 1.0
"""Time of each measurement."""
RATES_SECONDS, ROUND_SECONDS = 30.0, 15.0
"""How long the nodes may take for their rates, and for each of the two rounds of pairs: 60 s for the whole check."""


@dataclass(frozen=True)
class CheckPlan:
    """How the nodes are checked.

    Args:
        data: folder of the set on whose disk files are read. None: no disk is measured.
        tolerance: fraction of the median by which a rate may be lower.
        note: writes what was found to the ledger.
    """

    data: Path | None
    tolerance: float
    note: Callable[[Mapping[str, Any]], None]


class StartCheck:
    """A check of all nodes of a job.

    Args:
        agent: the agent of the first node.
        others: the other agents.
        plan: how the nodes are checked.
    """

    def __init__(self, agent: NodeAgent, others: FirstAgent, plan: CheckPlan) -> None:
        self._agent, self._others, self._plan = agent, others, plan
        self._names = agent.place.hosts  # these are unique, and what `--exclude` takes
        self._began = time.monotonic()
        self._stopped = False
        self._unread: list[tuple[str, Message]] = []
        self._failures: dict[str, str] = {}
        """Why the process of a node has ended."""

    def begin(self) -> None:
        """Start the process of each node. The one of this node is a fork."""
        self._tell({"do": "check", "measure": self._measure()})

    def finish(self, crew: Sequence[int], spares: Sequence[int]) -> tuple[list[int], list[int]]:
        """Wait for the results, and return the nodes that get ranks, in the order of these, and the spares.

        If a signal asks to stop meanwhile, the check ends at once, and nothing changes.

        Args:
            crew: the nodes that should have ranks.
            spares: the other nodes.
        """
        verdict = self._verdict()
        self._tell({"do": "end check"})
        seconds = time.monotonic() - self._began
        facts = {"count": len(self._names), "seconds": round(seconds, 3), "stopped": self._stopped}
        if self._stopped:
            LOGGER.info("a signal ended the check of the nodes")
            self._plan.note({**facts, "bad": {}, "swapped": {}, "links": [], "common": []})
            return list(crew), list(spares)
        lost = frozenset(self._names[node] for node in self._others.lost)
        manning = man(self._of(crew), self._of(spares), verdict, lost)
        self._print(verdict, manning, seconds)
        found = {"bad": verdict.bad, "links": verdict.links, "common": verdict.common}
        self._plan.note({**facts, **found, "swapped": manning.swapped})
        return self._numbers(manning.crew), self._numbers(manning.spares)

    def _verdict(self) -> Verdict:
        measured = self._rates()
        # A node that has not answered would only make its partner wait.
        answered = [one.node for one in measured if CHECK not in one.failures]
        tolerance = self._plan.tolerance
        first = self._round(1, first_round(answered))
        second = self._round(2, second_round(answered, first, tolerance))
        return judge_nodes(measured, first, second, tolerance)

    def _rates(self) -> list[NodeRates]:
        """Return the rates of each node that is not lost.

        A node that is slow measures once more, and its better rates count. Other jobs may have used the disk meanwhile.
        """
        # An agent may still import what its ranks need. They could not start before either.
        self._wait(self._names, time.monotonic() + JOIN_S, lambda answer: "begun" in answer)
        self._began = time.monotonic()
        deadline = self._began + RATES_SECONDS
        answers = self._wait(self._names, deadline, lambda answer: "rates" in answer)
        silent = f"no answer within {RATES_SECONDS:.0f} s"
        measured = {
            node: NodeRates(node, answers[node]["rates"], answers[node]["failures"])
            if node in answers
            else NodeRates(node, {}, {CHECK: self._failures.get(node, silent)})
            for node in self._names
            if not self._is_lost(node)
        }
        found = slow_nodes([*measured.values()], self._plan.tolerance)
        slow = {one.node for one in found if not one.is_failure}
        self._ask({node: {"measure": self._measure()} for node in slow})
        again = self._wait(sorted(slow), deadline, lambda answer: "rates" in answer)
        for node, answer in again.items():
            measured[node] = better_rates(
                measured[node], NodeRates(node, answer["rates"], answer["failures"])
            )
        return [*measured.values()]

    def _measure(self) -> dict[str, Any]:
        """Return the order to measure a node."""
        return {"data": None if self._plan.data is None else str(self._plan.data), "seconds": SECONDS}

    def _round(self, number: int, pairs: Sequence[Pair]) -> dict[Pair, float | None]:
        """Let pairs of nodes measure their links, and return the rate of each pair. None: it failed."""
        orders: dict[str, Message] = {}
        for pair in pairs:
            meeting = f"{self._agent.place.meeting}.check.{number}.{pair[0]}"
            for rank, node in enumerate(pair):
                order = {"round": number, "meeting": meeting, "first": pair[0], "rank": rank}
                orders[node] = {"pair": order}
        self._ask(orders)
        deadline = time.monotonic() + ROUND_SECONDS
        answers = self._wait([*orders], deadline, lambda answer: answer.get("round") == number)
        rates: dict[Pair, float | None] = {}
        for pair in pairs:
            of_pair = [answers.get(node, {}).get("rate") for node in pair]
            known = [rate for rate in of_pair if rate is not None]
            # A partner that is lost says nothing of the other one.
            if not any(self._is_lost(node) for node in pair):
                rates[pair] = min(known) if len(known) == len(pair) else None
        return rates

    def _ask(self, orders: Mapping[str, Message]) -> None:
        """Give orders to the processes of nodes."""
        if orders and not self._stopped:
            by_number = {str(self._names.index(node)): order for node, order in orders.items()}
            self._tell({"do": "ask check", "orders": by_number})

    def _wait(
        self, nodes: Sequence[str], deadline: float, is_wanted: Callable[[Message], bool]
    ) -> dict[str, Message]:
        """Return the wanted answer of each node. One that is late, has ended or is lost has none."""
        answers: dict[str, Message] = {}
        while time.monotonic() < deadline and not self._stopped:
            for message in [*self._agent.news(), *self._others.read()]:
                if "checked" in message:
                    self._hear(self._names[message["node"]], message["checked"])
            answers |= {node: answer for node, answer in self._unread if is_wanted(answer)}
            self._unread = [(node, answer) for node, answer in self._unread if not is_wanted(answer)]
            known = answers.keys() | self._failures.keys()
            if all(node in known or self._is_lost(node) for node in nodes):
                break
            self._agent.wait(self._others.connections)
        return {node: answers[node] for node in nodes if node in answers}

    def _hear(self, node: str, answer: Message) -> None:
        if "stopped" in answer:
            self._stopped = True
        elif "failure" in answer and "round" not in answer:
            self._failures[node] = answer["failure"]
        else:
            self._unread.append((node, answer))

    def _print(self, verdict: Verdict, manning: Manning, seconds: float) -> None:
        tolerance = f" (slurm.check_tolerance is {100 * self._plan.tolerance:g} %)"
        for node, why in verdict.bad.items():
            said = f"node {node} is bad: {'; '.join(why)}{'' if node in verdict.failed else tolerance}"
            if node in manning.swapped:
                LOGGER.warning("%s. Node %s takes its place", said, manning.swapped[node])
            elif node in manning.crew:
                LOGGER.warning(
                    "%s. No better spare node is left, and the run starts on it all the same", said
                )
            else:
                LOGGER.warning("%s. It is a spare", said)
        for node, spare in manning.swapped.items():
            if node not in verdict.bad:
                LOGGER.warning("node %s is lost. Node %s takes its place", node, spare)
        for pair in verdict.links:
            LOGGER.warning("nodes %s and %s fail or are slow together", *pair)
        for why in verdict.common:
            LOGGER.warning("all nodes fail in the check, so none of them is bad: %s", why)
        LOGGER.info("the check of %d nodes took %.1f s", len(self._names), seconds)

    def _is_lost(self, node: str) -> bool:
        return any(self._names[number] == node for number in self._others.lost)

    def _of(self, nodes: Sequence[int]) -> list[str]:
        return [self._names[node] for node in nodes]

    def _numbers(self, names: Sequence[str]) -> list[int]:
        return [self._names.index(name) for name in names]

    def _tell(self, message: Message) -> None:
        self._others.send_all(message)
        self._agent.obey(message)
