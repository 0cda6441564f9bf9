"""Decides what happens to the ranks of one start: which one saves after a failure, when the others end, and why."""

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.runs.end_reasons import STOPPED, ExitCode

GRACE_SECONDS = 5.0
"""Time in which the others may report and end by themselves after one rank failed."""
INTERRUPT_SECONDS = 0.5
"""Time after which those that have not reported are told that a peer is lost. A rank that waits for a GPU cannot notice
it."""


def choose_saver(reports: Mapping[int, int | None]) -> int | None:
    """Return the rank that saves: the lowest one that holds the newest step. None: no rank holds a step.

    Args:
        reports: the step that each rank holds, or None.
    """
    held = {rank: step for rank, step in reports.items() if step is not None}
    return min(held, key=lambda rank: (-held[rank], rank), default=None)


@dataclass(frozen=True)
class Outcome:
    """How all ranks of a start ended."""

    code: int
    """Exit code in the shell's convention: 128 + number if a signal ended the rank."""
    failed: int | None
    """The rank that failed by itself. None: none failed, or the failure needs no explanation."""


class Supervision:
    """What is known of the ranks of one start.

    Args:
        world_size: number of ranks.
        saves: whether a rank that is left may save.
    """

    def __init__(self, world_size: int, *, saves: bool) -> None:
        self.codes: dict[int, int] = {}
        """Exit codes of the ranks that have ended, in the order of their ends. -N: signal N ended it."""
        self.reports: dict[int, int | None] = {}
        """The finished step that each rank holds that has lost a peer. None: it has none that may be saved."""
        self._world_size = world_size
        self._answered = not saves
        self._saver: int | None = None
        self._deadline = float("inf")
        self._may_interrupt = saves

    def ended(self, rank: int, code: int, now: float) -> None:
        """Note the end of a rank."""
        self.codes.setdefault(rank, code)
        if code != 0:
            self._deadline = min(self._deadline, now + GRACE_SECONDS)

    @property
    def over(self) -> bool:
        """Whether all ranks have ended."""
        return len(self.codes) == self._world_size

    def answer(self, now: float) -> dict[int, bool] | None:
        """Return which of the ranks that have reported saves. Once all others have ended or are late, it is returned
        once. None: not now."""
        living = set(range(self._world_size)) - self.codes.keys()
        failed = any(self.codes.values())
        if self._answered or not failed or not (now > self._deadline or living <= self.reports.keys()):
            return None
        self._answered = True
        self._saver = choose_saver({r: step for r, step in self.reports.items() if r in living})
        return {rank: rank == self._saver for rank in self.reports}

    def must_interrupt(self, now: float) -> bool:
        """Whether it is time to tell the ranks that a peer is lost: once, if some of them have not reported."""
        living = set(range(self._world_size)) - self.codes.keys()
        if not self._may_interrupt or now < self._deadline - GRACE_SECONDS + INTERRUPT_SECONDS:
            return False
        self._may_interrupt = False
        return not living <= self.reports.keys()

    def must_end(self, now: float) -> bool:
        """Whether the ranks that still run are killed: they wait for one that failed, and none of them saves."""
        is_saving = self._saver is not None and self._saver not in self.codes
        return now > self._deadline and self._answered and not is_saving

    def outcome(self) -> Outcome:
        """Return how the ranks ended. A rank that only lost a peer counts if no other one failed."""
        failed = [rank for rank, code in self.codes.items() if code != 0]
        if not failed:
            return Outcome(0, None)
        culprit = next((r for r in failed if self.codes[r] != ExitCode.LOST_PEER), failed[0])
        code = self.codes[culprit]
        code = 128 - code if code < 0 else code
        return Outcome(code, None if code in (*STOPPED, ExitCode.STALLED) else culprit)
