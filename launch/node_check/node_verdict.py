"""What a check says of the nodes of a job before its ranks start: which are bad, and which spares take their places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launch.node_check.comparison import Pair, judge_links, slow_nodes
from launch.node_check.rates import NodeRates

CHECK = "check"
"""Key of the failure of a node that has not answered as a whole, in place of a word of `Rate`."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with the nodes of a job."""

    bad: Mapping[str, Sequence[str]]
    """What is wrong with each bad node."""
    failed: frozenset[str]
    """The bad nodes on which something fails. The others are slow."""
    links: Sequence[Pair]
    """Pairs that fail or are slow, while no node can be named as the reason."""
    common: Sequence[str]
    """What fails on all nodes. It is the fault of none of them."""


@dataclass(frozen=True)
class Manning:
    """Which nodes get ranks."""

    crew: Sequence[str]
    """The nodes that have ranks, in the order of these."""
    spares: Sequence[str]
    """The nodes that may take their places later, the best first."""
    swapped: Mapping[str, str]
    """The spare that has taken the place of a node, by the name of that node."""


def judge_nodes(
    measured: Sequence[NodeRates],
    first: Mapping[Pair, float | None],
    second: Mapping[Pair, float | None],
    tolerance: float,
) -> Verdict:
    """Return what is wrong with the nodes.

    A failure that all nodes have, such as a set that is nowhere, names none of them.

    Args:
        measured: the rates of each node. One that has not answered has a failure with the key `CHECK`.
        first: bytes per second of each pair of the first round. None: it failed.
        second: the same of the second round.
        tolerance: fraction of the median by which a rate may be lower.
    """
    common = _common(measured)
    everywhere = common.keys()
    own = [
        NodeRates(one.node, one.rates, {r: why for r, why in one.failures.items() if r not in everywhere})
        for one in measured
    ]
    bad: dict[str, list[str]] = {}
    failed = set[str]()
    for found in slow_nodes(own, tolerance):
        bad.setdefault(found.node, []).append(found.what)
        if found.is_failure:
            failed.add(found.node)
    links = judge_links(first, second, tolerance)
    for node in links.nodes:
        rates = [rate for pair, rate in {**first, **second}.items() if node in pair]
        fails = all(rate is None for rate in rates)
        bad.setdefault(node, []).append(
            f"all-reduce: it {'fails' if fails else 'is slow'} with every partner"
        )
        if fails:
            failed.add(node)
    said = [f"{rate}: {why}" for rate, why in common.items()]
    return Verdict(bad, frozenset(failed), [*links.links, *links.unclear], said)


def _common(measured: Sequence[NodeRates]) -> dict[str, str]:
    """Return what fails on all nodes that have answered, or that no node has answered, with one of the reasons."""
    answered = [one for one in measured if CHECK not in one.failures]
    asked = answered or measured
    if not asked or len(asked) == 1 < len(measured):
        return {}
    return {
        rate: why for rate, why in asked[0].failures.items() if all(rate in one.failures for one in asked)
    }


def man(crew: Sequence[str], spares: Sequence[str], verdict: Verdict, lost: frozenset[str]) -> Manning:
    """Return which nodes get ranks: a spare takes the place of a node that is worse than it.

    A node that fails or is lost is worse than a slow one, and gets a spare first. A slow node may take a place later,
    because a slow run is better than none. A node that fails is no spare: its ranks would probably end the run.

    Args:
        crew: the nodes that should have ranks, in the order of these.
        spares: the other nodes of the job.
        verdict: what is wrong with them.
        lost: nodes whose agents are lost.
    """

    def badness(node: str) -> int:
        return 2 if node in lost | verdict.failed else int(node in verdict.bad)

    manned, swapped = list(crew), dict[str, str]()
    left = sorted((node for node in spares if badness(node) < 2), key=badness)
    for node in sorted(crew, key=badness, reverse=True):
        if left and badness(left[0]) < badness(node):
            swapped[node] = left.pop(0)
            manned[manned.index(node)] = swapped[node]
            if badness(node) < 2:
                left.append(node)
    return Manning(manned, left, swapped)
