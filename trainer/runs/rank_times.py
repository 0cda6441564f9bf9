"""How long each rank of a run computes by itself, as its supervisor has written it down. Loads no torch."""

import json
from dataclasses import dataclass

from trainer.runs.run_folder import RunFolder

STRAGGLER = "straggler"
"""Ledger event: a rank has computed clearly longer than the others for 100 steps."""
RANK_TIMES = "rank_times"
"""Ledger event: how long each rank has computed in the first 100 steps of an attempt."""


@dataclass(frozen=True)
class RankTime:
    """The time that a rank computes by itself, without messages and waits for data."""

    rank: int
    node: str
    milliseconds: float
    """Time per step, averaged over the last 100 steps."""
    slower: float
    """Fraction by which this is more than the median of all ranks. Negative: less."""


def read_rank_times(run: RunFolder) -> list[RankTime]:
    """Return the newest times of a run's ranks. Empty: there are none, or the file is damaged."""
    try:
        found = json.loads(run.rank_times.read_bytes())
        return [
            RankTime(int(one["rank"]), str(one["node"]), float(one["milliseconds"]), float(one["slower"]))
            for one in found
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return []
