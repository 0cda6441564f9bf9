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
from launch.node_check.comparison import Pair, first_round, second_round
from launch.node_check.rates import NodeRates
from launch.node_check.verdict import CHECK, Manning, Verdict, judge_nodes, man
from launch.slurm.agent_links import FirstAgent, Message
from launch.slurm.node_agent import POLL_SECONDS, NodeAgent

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
        names: host names of all nodes of the job.
        plan: how the nodes are checked.
    """

    def __init__(self, agent: NodeAgent, others: FirstAgent, names: Sequence[str], plan: CheckPlan) -> None:
        self._agent, self._others, self._names, self._plan = agent, others, names, plan
        self._began = time.monotonic()
        self._stopped = False
        self._failures: dict[str, str] = {}
        """Why the process of a node has ended."""

    def begin(self) -> None:
        """Start the process of each node. The one of this node is a fork."""
        data = None if self._plan.data is None else str(self._plan.data)
        self._tell({"do": "check", "measure": {"data": data, "seconds": SECONDS}})

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
        numbers = {name: node for node, name in enumerate(self._names)}
        return [numbers[name] for name in manning.crew], [numbers[name] for name in manning.spares]

    def _verdict(self) -> Verdict:
        nodes = [node for number, node in enumerate(self._names) if number not in self._others.lost]
        answers = self._wait(nodes, RATES_SECONDS, lambda answer: "rates" in answer)
        silent = f"no answer within {RATES_SECONDS:.0f} s"
        measured = [
            NodeRates(node, answers[node]["rates"], answers[node]["failures"])
            if node in answers
            else NodeRates(node, {}, {CHECK: self._failures.get(node, silent)})
            for node in nodes
            if not self._is_lost(node)
        ]
        tolerance = self._plan.tolerance
        first = self._round(1, first_round(list(answers)))
        second = self._round(2, second_round(list(answers), first, tolerance))
        return judge_nodes(measured, first, second, tolerance)

    def _round(self, number: int, pairs: Sequence[Pair]) -> dict[Pair, float | None]:
        """Let pairs of nodes measure their links, and return the rate of each pair. None: it failed."""
        numbers = {name: node for node, name in enumerate(self._names)}
        place, orders = self._agent.place, dict[str, Any]()
        for pair in pairs:
            first = place.hosts[numbers[pair[0]]]
            meeting = f"{place.meeting}.check.{number}.{numbers[pair[0]]}"
            for rank, node in enumerate(pair):
                order = {"round": number, "meeting": meeting, "first": first, "rank": rank}
                orders[str(numbers[node])] = {"pair": order}
        if orders and not self._stopped:
            self._tell({"do": "check pairs", "pairs": orders})
        asked = [node for pair in pairs for node in pair]
        answers = self._wait(asked, ROUND_SECONDS, lambda answer: answer.get("round") == number)
        rates: dict[Pair, float | None] = {}
        for pair in pairs:
            of_pair = [answers.get(node, {}).get("rate") for node in pair]
            known = [rate for rate in of_pair if rate is not None]
            # A partner that is lost says nothing of the other one.
            if not any(self._is_lost(node) for node in pair):
                rates[pair] = min(known) if len(known) == len(pair) else None
        return rates

    def _wait(
        self, nodes: Sequence[str], seconds: float, is_wanted: Callable[[Message], bool]
    ) -> dict[str, Message]:
        """Return the wanted answer of each node. One that is late, has ended or is lost has none."""
        answers: dict[str, Message] = {}
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self._stopped:
            for message in [*self._agent.news(), *self._others.read()]:
                if "checked" in message:
                    self._hear(self._names[message["node"]], message["checked"], is_wanted, answers)
            known = answers.keys() | self._failures.keys()
            if all(node in known or self._is_lost(node) for node in nodes):
                break
            time.sleep(POLL_SECONDS)
        return {node: answers[node] for node in nodes if node in answers}

    def _hear(
        self,
        node: str,
        answer: Message,
        is_wanted: Callable[[Message], bool],
        answers: dict[str, Message],
    ) -> None:
        if "stopped" in answer:
            self._stopped = True
        elif is_wanted(answer):
            answers[node] = answer
        elif "round" not in answer and "failure" in answer:
            self._failures[node] = answer["failure"]

    def _print(self, verdict: Verdict, manning: Manning, seconds: float) -> None:
        tolerance = f"slurm.check_tolerance is {100 * self._plan.tolerance:g} %"
        for node, why in verdict.bad.items():
            said = f"node {node} is bad: {'; '.join(why)} ({tolerance})"
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

    def _tell(self, message: Message) -> None:
        self._others.send_all(message)
        self._agent.obey(message)
