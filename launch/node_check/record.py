"""The record of a check of nodes in the ledger of a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NODE_CHECK = "node_check"
"""Event of the ledger: the nodes of a job were checked before the attempt that it names."""


@dataclass(frozen=True)
class NodeCheck:
    """What a check of the nodes of a job has found."""

    attempt: int
    """Number of the attempt that came after it."""
    nodes: int
    """Number of nodes, spares included."""
    seconds: float
    stopped: bool
    """Whether a signal has ended it. It then tells nothing of the nodes."""
    bad: Mapping[str, Sequence[str]]
    """What is wrong with each bad node."""
    swapped: Mapping[str, str]
    """The spare that has taken the place of a node, by the name of that node."""
    links: Sequence[Sequence[str]]
    """Pairs of nodes that fail or are slow together, while no node can be named as the reason."""
    common: Sequence[str]
    """What fails on all nodes."""

    def lines(self) -> list[str]:
        """Return in words what it has found, one line for each finding."""
        if self.stopped:
            return [f"a signal ended the check of {self.nodes} nodes after {self.seconds:.1f} s"]
        found = [
            f"{node} is bad, and {self.swapped[node]} has taken its place: {'; '.join(why)}"
            if node in self.swapped
            else f"{node} is bad: {'; '.join(why)}"
            for node, why in self.bad.items()
        ]
        found += [f"{' and '.join(pair)} fail or are slow together" for pair in self.links]
        found += [f"all nodes fail: {why}" for why in self.common]
        return [
            f"the check of {self.nodes} nodes took {self.seconds:.1f} s{'' if found else ' and found no fault'}",
            *found,
        ]


def node_checks(records: Iterable[Mapping[str, Any]]) -> list[NodeCheck]:
    """Return the checks of nodes among the records of a ledger, the oldest first."""
    return [
        NodeCheck(
            attempt=record["attempt"],
            nodes=record["count"],
            seconds=record["seconds"],
            stopped=record["stopped"],
            bad=record["bad"],
            swapped=record["swapped"],
            links=record["links"],
            common=record["common"],
        )
        for record in records
        if record["event"] == NODE_CHECK
    ]
