"""When steps are finished and checkpoints are on the disk, if nothing fails."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.plan.assumptions import Assumptions

Times = NDArray[np.float64]
_ROUNDING = 1e-9
"""A moment this close before a step, in steps, counts as its end. Sums of times are rounded."""


@dataclass(frozen=True)
class StepClock:
    """Maps the time since a step that is a multiple of the interval to steps and checkpoints, and back."""

    pace: float | Times
    """Seconds of a step, of all runs or of each."""
    every: int
    """Steps between checkpoints."""
    stall: float | Times
    """Seconds for which steps wait at each checkpoint."""
    write: float
    """Seconds from the end of the wait until the checkpoint is on the disk."""

    @classmethod
    def of(cls, a: Assumptions, slower: float | Times = 1.0) -> "StepClock":
        """Return the clock of runs. A save waits for the write of the one before it, as in `BackgroundWriter`.

        Args:
            a: the assumptions.
            slower: how many times as long a step takes as on all nodes.
        """
        every = a.every_steps or a.steps + 1
        pace = a.pace_on(slower)
        wait_for_write = np.maximum(0.0, a.write_seconds - every * pace)
        return cls(pace, every, a.save_seconds + wait_for_write, a.write_seconds)

    @property
    def period(self) -> float | Times:
        """Seconds from one checkpoint to the next."""
        return self.every * self.pace + self.stall

    def steps(self, time: Times) -> Times:
        """Return how many steps are finished after some time."""
        periods, rest = self._split(time)
        return periods * self.every + np.minimum(np.floor(rest / self.pace + _ROUNDING), self.every)

    def stalls(self, time: Times) -> Times:
        """Return for how long steps have waited for saves."""
        periods, rest = self._split(time)
        return periods * self.stall + np.maximum(0.0, rest - self.every * self.pace)

    def saved(self, time: Times) -> Times:
        """Return the last step of which a checkpoint is on the disk."""
        return self.every * np.maximum(0.0, np.floor((time - self.write) / self.period + _ROUNDING))

    def moment(self, step: Times) -> Times:
        """Return when a step is finished."""
        saves_before = np.floor((np.maximum(step, 1) - 1) / self.every)
        return step * self.pace + self.stall * saves_before

    def _split(self, time: Times) -> tuple[Times, Times]:
        periods = np.floor(time / self.period + _ROUNDING / self.every)
        return periods, np.maximum(0.0, time - periods * self.period)
