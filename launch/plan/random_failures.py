"""Random numbers of failures, drawn once and shared by all simulations that are compared."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REPETITIONS = 1000
"""Number of simulated runs. Their spread gives the interval of the goodput."""
MOST_EVENTS = 200
"""Number of events after which a simulated run ends. Its goodput has then settled."""


@dataclass(frozen=True)
class RandomFailures:
    """Numbers for each event of each simulated run.

    Two simulations with the same numbers see the same luck, so their difference comes from their assumptions.
    """

    waits: NDArray[np.float64]
    """[events, runs] Exponential, with mean 1: the wait for the next failure, in mean times between failures."""
    kinds: NDArray[np.float64]
    """[events, runs] Uniform: what fails."""

    @classmethod
    def draw(
        cls, seed: int, *, repetitions: int = REPETITIONS, events: int = MOST_EVENTS
    ) -> "RandomFailures":
        """Draw the numbers of a seed."""
        generator = np.random.default_rng(seed)
        shape = (events, repetitions)
        return cls(generator.exponential(size=shape), generator.random(size=shape))
