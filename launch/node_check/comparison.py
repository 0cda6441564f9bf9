"""Which node is worse than the others: pure comparisons of rates, of nodes and of pairs of nodes."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launch.node_check.rates import NodeRates, Rate, written

Pair = tuple[str, str]
"""Two nodes."""
LEAST_PAIRS = 3
"""Number of pairs below which a slow pair cannot be told from the others."""


@dataclass(frozen=True)
class Suspicion:
    """A node that fails or is slow."""

    node: str
    what: str
    """What is wrong, without the name of the node."""
    is_failure: bool = False
    """Whether a measurement failed. Otherwise the node is slow."""


@dataclass(frozen=True)
class LinkVerdict:
    """What two rounds of pairs tell."""

    nodes: Sequence[str]
    """Nodes that are slow with every partner, while these partners are fast with others."""
    links: Sequence[Pair]
    """Pairs that are slow, while both nodes are fast with others."""
    unclear: Sequence[Pair]
    """Pairs that are slow, while the rounds do not tell which node is the reason."""


def slow_nodes(measured: Sequence[NodeRates], tolerance: float) -> list[Suspicion]:
    """Return the nodes with a failed measurement, or with a rate below the median of all nodes.

    Args:
        measured: the rates of each node.
        tolerance: fraction of the median by which a rate may be lower.
    """
    found = [
        Suspicion(one.node, f"{rate}: {why}", is_failure=True)
        for one in measured
        for rate, why in one.failures.items()
    ]
    for rate in Rate:
        known = {one.node: one.rates[rate] for one in measured if rate in one.rates}
        if not known:
            continue
        median = statistics.median(known.values())
        found += [
            Suspicion(
                node,
                f"{rate}: {written(rate, value)}, {100 * (1 - value / median):.0f} % below the median of "
                f"{written(rate, median)}",
            )
            for node, value in known.items()
            if value < (1 - tolerance) * median
        ]
    return found


def first_round(nodes: Sequence[str]) -> list[Pair]:
    """Return pairs of neighbors. Of an odd number of nodes, the last one has no partner yet."""
    return list(zip(nodes[::2], nodes[1::2], strict=False))


def second_round(nodes: Sequence[str], first: Mapping[Pair, float | None], tolerance: float) -> list[Pair]:
    """Return the pairs of the second round: each node of a slow pair, and the one without a partner, gets a good one.

    If there are too few good nodes, nodes of different slow pairs are tried with each other.

    Args:
        nodes: all nodes.
        first: the rate of each pair of the first round. None: it failed.
        tolerance: fraction of the median by which a rate may be lower.
    """
    slow = _slow(first, tolerance)
    good = [node for pair in first if pair not in slow for node in pair]
    met = {frozenset(pair) for pair in first}
    alone = [node for node in nodes if not any(node in pair for pair in first)]
    doubtful = [pair[0] for pair in slow] + [pair[1] for pair in slow] + alone
    pairs: list[Pair] = []
    while doubtful:
        node = doubtful.pop(0)
        partners = good or doubtful
        partner = next((other for other in partners if frozenset((node, other)) not in met), None)
        if partner is not None:
            partners.remove(partner)
            pairs.append((node, partner))
    return pairs


def judge_links(
    first: Mapping[Pair, float | None], second: Mapping[Pair, float | None], tolerance: float
) -> LinkVerdict:
    """Return which nodes and which links are slow.

    Args:
        first: the rate of each pair of the first round. None: it failed.
        second: the same of the second round.
        tolerance: fraction of the median by which a rate may be lower.
    """
    rates = {**first, **second}
    slow = _slow(rates, tolerance)
    fast_nodes = {node for pair in rates if pair not in slow for node in pair}
    bad = sorted(
        {
            node
            for pair in slow
            for node, other in (pair, pair[::-1])
            if node not in fast_nodes and other in fast_nodes
        }
    )
    left = [pair for pair in slow if not set(pair) & set(bad)]
    return LinkVerdict(
        bad,
        [pair for pair in left if set(pair) <= fast_nodes],
        [pair for pair in left if not set(pair) <= fast_nodes],
    )


def _slow(rates: Mapping[Pair, float | None], tolerance: float) -> list[Pair]:
    """Return the pairs that failed, or are slower than the median of those that did not."""
    known = [rate for rate in rates.values() if rate is not None]
    least = (1 - tolerance) * statistics.median(known) if len(known) >= LEAST_PAIRS else 0.0
    return [pair for pair, rate in rates.items() if rate is None or rate < least]
