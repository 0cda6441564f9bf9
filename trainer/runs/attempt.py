"""One attempt at a run: what every part that works for it needs to know."""

from dataclasses import dataclass

from trainer.config import Config
from trainer.distributed import Process
from trainer.run import RunFolder
from trainer.run_lock import RunLock


@dataclass(frozen=True)
class Attempt:
    """An attempt as one of its processes sees it."""

    run: RunFolder
    config: Config
    process: Process
    number: int
    """From 1, rising with each attempt at the run."""
    lock: RunLock | None
    """Rank 0's hold on the run; None on the other ranks."""
