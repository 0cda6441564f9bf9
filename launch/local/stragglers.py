"""Finds ranks that compute more slowly than the others, from the records of all ranks. Has no clock of its own.

A slow rank hides itself: all others wait for it in the next message, so every rank takes the same time for a step. What
tells is the time in which a rank computes by itself, without its messages and its waits for data.

On a CUDA device the host only queues work. Its record then tells how long the host has worked, not the device.
"""

import statistics
from collections import deque
from collections.abc import Mapping

from trainer.distributed.rank_state import RankState
from trainer.runs.rank_times import RankTime

BLOCK_STEPS = 10
"""Steps over which times are averaged."""
BLOCKS = 10
"""Blocks in which a rank must be slow. Together with `BLOCK_STEPS` these are 100 steps."""
_LEAST_SLOW_BLOCKS = 9  # one block may look fast because a core was shared with another program
SLOWER = 0.15
"""Fraction by which a rank is slower than the median before it is named."""


class Stragglers:
    """Compares the ranks of one start.

    Args:
        nodes: name of the node of each rank.
    """

    def __init__(self, nodes: Mapping[int, str]) -> None:
        self._nodes = nodes
        self._begins: dict[int, tuple[int, float]] = {}
        self._blocks = deque[dict[int, float]](maxlen=BLOCKS)
        self._named = set[int]()

    def see(self, states: Mapping[int, RankState]) -> list[RankTime]:
        """Take in what the ranks have done. Returns the ranks that have become slow, each once."""
        if len(states) < len(self._nodes) or len(self._nodes) == 1:
            return []
        ends = {rank: (state.step, state.compute_seconds) for rank, state in states.items()}
        if not self._begins or any(ends[rank][0] < self._begins[rank][0] for rank in ends):
            if all(step for step, _ in ends.values()):
                self._begins = ends  # from the first finished step on, and again after a rollback
            return []
        steps = {rank: ends[rank][0] - self._begins[rank][0] for rank in ends}
        if min(steps.values()) < BLOCK_STEPS:
            return []
        self._blocks.append({r: (ends[r][1] - self._begins[r][1]) / steps[r] for r in ends})
        self._begins = ends
        found = [one for one in self.times() if one.rank not in self._named and self._is_slow(one.rank)]
        self._named |= {one.rank for one in found}
        return found

    @property
    def is_settled(self) -> bool:
        """Whether the times cover 100 steps."""
        return len(self._blocks) == BLOCKS

    def times(self) -> list[RankTime]:
        """Return the time of each rank over the last blocks, by rank. Empty: the first block is not over."""
        if not self._blocks:
            return []
        seconds = {rank: statistics.fmean(block[rank] for block in self._blocks) for rank in self._blocks[0]}
        usual = _usual(seconds)
        return [
            RankTime(
                rank, self._nodes[rank], round(1e3 * seconds[rank], 3), round(seconds[rank] / usual - 1, 3)
            )
            for rank in sorted(seconds)
        ]

    def _is_slow(self, rank: int) -> bool:
        slow = sum(block[rank] >= (1 + SLOWER) * _usual(block) for block in self._blocks)
        return self.is_settled and slow >= _LEAST_SLOW_BLOCKS


def _usual(seconds: Mapping[int, float]) -> float:
    """Return the median. Of an even number of ranks it is the lower middle: of two ranks, the faster one counts."""
    return max(statistics.median_low(seconds.values()), 1e-9)
