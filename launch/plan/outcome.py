"""What simulated runs come to: expected goodput with its interval, where the rest goes, and how often things happen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.plan.assumptions import Assumptions

Values = NDArray[np.float64]
USEFUL, REDONE, RESTARTING, SAVING, EVALUATING, SPARE = (
    "useful",
    "redone",
    "restarting",
    "saving",
    "evaluating",
    "spare",
)
_NORMAL_95 = 1.96
"""Half of a 95 % interval of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Outcome:
    """The mean of many simulated runs."""

    goodput: float
    """Useful device-time divided by allocated device-time. Spare nodes and lost ones are allocated."""
    interval: float
    """Half of the 95 % interval of `goodput`. It tells the luck of the simulation, not how right the numbers are."""
    fractions: Mapping[str, float]
    """Fraction of the allocated device-time by cause. They add up to 1."""
    elapsed_seconds: float
    """From the first start to the end of the run, with waits in the queue. Infinity: it makes no progress."""
    failures: float
    """Failures of ranks and of nodes that train, in the whole run."""
    requeues: float
    """Restarts of the job by SLURM, in the whole run."""
    stops: float
    """Ends as FAILED because the same checkpoint failed again and again. The user has to resume."""


def summarize(
    a: Assumptions, seconds: Mapping[str, Values], elapsed: Values, counts: Mapping[str, Values], done: Values
) -> Outcome:
    """Return the mean of simulated runs.

    The goodput is the ratio of two sums over all runs. Its interval is that of a ratio estimator (Cochran, Sampling
    Techniques, chapter 6).

    Args:
        a: the assumptions.
        seconds: allocated time of each run by cause, without the one of spares. That of lost nodes is with `spare`.
        elapsed: time of each run with its waits in the queue.
        counts: `failures`, `requeues` and `stops` of each run.
        done: number of steps that each run has made. A run that was cut short stands for the whole one.
    """
    allocated = sum(seconds.values(), np.zeros_like(elapsed))
    training = a.nodes / (a.nodes + a.spares)
    whole = float(allocated.sum())
    ratio = float(seconds[USEFUL].sum()) / whole
    residual = seconds[USEFUL] - ratio * allocated
    deviation = math.sqrt(float((residual**2).sum()) / max(1, len(elapsed) - 1) / len(elapsed))
    fractions = {cause: training * float(values.sum()) / whole for cause, values in seconds.items()}
    progress = float(done.sum()) / a.steps
    scale = 1 / progress if progress else math.inf
    return Outcome(
        goodput=training * ratio,
        interval=training * _NORMAL_95 * deviation / (whole / len(elapsed)),
        fractions=fractions | {SPARE: fractions.get(SPARE, 0.0) + 1 - training},
        elapsed_seconds=float(elapsed.sum()) * scale,
        **{name: float(values.sum()) * scale if values.any() else 0.0 for name, values in counts.items()},
    )
