"""The random events of `chaos.py`: kinds, times and ranks."""

import random
from dataclasses import dataclass

INTERVAL = 20
"""Steps between two checkpoints."""
SOON, LATER = (1, 12), (INTERVAL + 3, INTERVAL + 12)
"""Steps after which an event comes. A job that is killed twice at one checkpoint is left to its user, so what ends a
whole job comes later."""
OFTEN = {
    "killed rank": 10,
    "exception": 4,
    "killed rank, SLURM away": 2,
    "stopped rank": 2,
    "out of memory": 2,
    "killed agent": 3,
    "node without power": 3,
    "node cut off": 3,
    "first node without power": 2,
    "time limit": 3,
    "preemption": 2,
    "requeue": 2,
    "cancel and resume": 2,
}
"""How many of 40 events are of each kind."""


@dataclass(frozen=True)
class Planned:
    """An event that is to come."""

    kind: str
    steps: int
    """Steps of the attempt before the event."""
    rank: int


def plan(count: int, numbers: random.Random) -> list[Planned]:
    """Return events in random order, as often of each kind as `OFTEN` says."""
    weighted = [(often * count / sum(OFTEN.values()), kind) for kind, often in OFTEN.items()]
    kinds = [kind for often, kind in weighted for _ in range(int(often))]
    rest = sorted(weighted, key=lambda one: int(one[0]) - one[0])
    kinds += [kind for _, kind in rest[: count - len(kinds)]]
    numbers.shuffle(kinds)
    soon = ("killed rank", "exception", "killed rank, SLURM away", "time limit", "preemption", "requeue")
    return [
        Planned(kind, numbers.randrange(*(SOON if kind in soon else LATER)), numbers.randrange(2))
        for kind in kinds
    ]
