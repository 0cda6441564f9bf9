"""The best checkpoint interval, and how many spare nodes pay, by simulations that see the same failures."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from launch.plan.assumptions import Assumptions
from launch.plan.outcome import Outcome
from launch.plan.random_failures import RandomFailures
from launch.plan.simulation import simulate

_SPREAD, _PER_ROUND, _ROUNDS = 16.0, 9, 3
"""Intervals from `1 / _SPREAD` to `_SPREAD` times the starting point are tried first, then closer ones."""
MOST_SPARES = 8


@dataclass(frozen=True)
class IntervalSearch:
    """The checkpoint intervals that were tried."""

    young: int | None
    """`sqrt(2 x save x MTBF)` in steps (Young 1974). None: no failure goes back to a checkpoint."""
    best: int
    """The interval with the highest goodput, in steps."""
    tried: dict[int, Outcome]
    """The outcome of each interval, the shortest first."""


def young_interval(a: Assumptions) -> int | None:
    """Return Young's checkpoint interval in steps. None: no failure goes back to a checkpoint.

    The MTBF is the mean time between those failures, of all nodes together.
    """
    of_ranks = 0.0 if a.rank_survives else a.rank_failures
    # The job does not outlive its first node, so nobody saves for it.
    of_nodes = (1 - a.rank_failures) / (a.nodes if a.node_survives else 1)
    if not of_ranks + of_nodes:
        return None
    mtbf = a.mtbf_seconds / a.nodes / (of_ranks + of_nodes)
    return min(a.steps, max(1, round(math.sqrt(2 * a.save_seconds * mtbf) / a.pace)))


def search_interval(a: Assumptions, random: RandomFailures) -> IntervalSearch:
    """Search the checkpoint interval with the highest goodput."""
    young = young_interval(a)
    center, spread = float(young or a.every_steps or a.steps), _SPREAD
    tried: dict[int, Outcome] = {}
    for _ in range(_ROUNDS):
        for steps in _around(center, spread, a.steps):
            if steps not in tried:
                tried[steps] = simulate(replace(a, every_steps=steps), random)
        center = float(max(tried, key=lambda steps: tried[steps].goodput))
        spread **= 2 / (_PER_ROUND - 1)
    return IntervalSearch(young, int(center), dict(sorted(tried.items())))


def _around(center: float, spread: float, most: int) -> Iterable[int]:
    around = np.geomspace(center / spread, center * spread, _PER_ROUND)
    return sorted({min(most, max(1, round(float(steps)))) for steps in around})


def compare_spares(a: Assumptions, random: RandomFailures) -> dict[int, Outcome]:
    """Return the outcome for each number of spare nodes, up to `MOST_SPARES` or the number of nodes."""
    counts = {*range(min(MOST_SPARES, a.nodes) + 1), a.spares}
    return {spares: simulate(replace(a, spares=spares), random) for spares in sorted(counts)}


def spares_that_pay(outcomes: dict[int, Outcome]) -> int:
    """Return the number of spares with the highest goodput. A spare must gain more than the luck of the simulation."""
    best, *more = sorted(outcomes)
    for spares in more:
        gain = outcomes[spares].goodput - outcomes[best].goodput
        if gain > max(outcomes[spares].interval, outcomes[best].interval):
            best = spares
    return best
