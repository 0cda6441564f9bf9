"""Statistics of a study: means, differences paired by seed, and claims."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from launch.studies.plan import Cell, Claim, Study

CONFIDENCE = 0.95
HELD, NOT_HELD, UNDECIDED = "held", "not held", "not decided by this budget"
Scores = Mapping[Cell, float]
"""Accuracy of each finished run, in percent."""


class Estimate(NamedTuple):
    """A mean with its 95 % interval (Student's t). A single value has no interval."""

    mean: float
    half: float
    samples: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.half:.2f}" if math.isfinite(self.half) else "")


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return mean and interval of independent values, or None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], math.inf, 1)
    from scipy.stats import t

    factor = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = factor * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), half, len(values))


@dataclass(frozen=True)
class Row:
    """A combination of choices over its seeds."""

    choices: tuple[tuple[str, str], ...]
    score: Estimate | None
    wanted: int
    """Number of runs that the study plans."""
    difference: Estimate | None
    """Difference to the best other choice of the compared axis, paired by seed. None: nothing to compare with."""
    best_other: str


def table(study: Study, cells: Sequence[Cell], scores: Scores) -> list[Row]:
    """Return a row for each combination, in the order of the grid."""
    rows = []
    for choices in dict.fromkeys(cell.choices for cell in cells):
        mine = [cell for cell in cells if cell.choices == choices]
        values = [scores[cell] for cell in mine if cell in scores]
        others = {
            dict(c)[study.compare]: c
            for c in dict.fromkeys(cell.choices for cell in cells)
            if c != choices and _without(c, study.compare) == _without(choices, study.compare)
        }
        means = {n: e.mean for n, c in others.items() if (e := estimate(_of(c, scores))) is not None}
        best = max(means, key=lambda name: means[name]) if means else ""
        difference = estimate(_paired(choices, others[best], scores)) if best else None
        rows.append(Row(choices, estimate(values), len(mine), difference, best))
    return rows


def _without(choices: tuple[tuple[str, str], ...], axis: str) -> tuple[tuple[str, str], ...]:
    return tuple((a, c) for a, c in choices if a != axis)


def _of(choices: tuple[tuple[str, str], ...], scores: Scores) -> list[float]:
    return [score for cell, score in scores.items() if cell.choices == choices]


def _paired(
    left: tuple[tuple[str, str], ...], right: tuple[tuple[str, str], ...], scores: Scores
) -> list[float]:
    """Return the differences between runs of the same seed."""
    other = {cell.seed: score for cell, score in scores.items() if cell.choices == right}
    return [
        score - other[cell.seed]
        for cell, score in scores.items()
        if cell.choices == left and cell.seed in other
    ]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim."""

    claim: Claim
    difference: Estimate | None
    verdict: str

    def __str__(self) -> str:
        at = " at " + ", ".join(f"{a}={c}" for a, c in self.claim.at.items()) if self.claim.at else ""
        by = f" by more than {self.claim.by:g} point{'s' * (self.claim.by != 1)}" if self.claim.by else ""
        source = f" ({self.claim.source})" if self.claim.source else ""
        measured = (
            f"{self.difference.mean:+.2f} points"
            + (f" ± {self.difference.half:.2f}" if math.isfinite(self.difference.half) else "")
            + f" over {self.difference.samples} seed{'s' * (self.difference.samples > 1)}"
            if self.difference
            else "no seed has finished all of its runs"
        )
        return f"{self.claim.better} is better than {self.claim.than}{at}{by}{source}: {self.verdict} ({measured})"


def decide_claim(study: Study, claim: Claim, scores: Scores) -> Verdict:
    """Decide whether a claim holds: the whole interval of its differences must exceed the margin.

    Runs are paired by seed and by all other choices. If the claim leaves axes open, the difference of a seed is the
    mean over their choices, all of which must be finished. Runs of one seed are not independent samples, because they
    share images and order.
    """
    named = {study.compare, *claim.at}
    wanted_pairs = math.prod(len(choices) for axis, choices in study.grid.items() if axis not in named)
    wanted = set(claim.at.items())
    left = {
        (c.seed, _without(c.choices, study.compare)): s
        for c, s in scores.items()
        if {*wanted, (study.compare, claim.better)} <= set(c.choices)
    }
    right = {
        (c.seed, _without(c.choices, study.compare)): s
        for c, s in scores.items()
        if {*wanted, (study.compare, claim.than)} <= set(c.choices)
    }
    by_seed: dict[int, list[float]] = {}
    for seed, others in left.keys() & right.keys():
        by_seed.setdefault(seed, []).append(left[seed, others] - right[seed, others])
    whole = [values for _, values in sorted(by_seed.items()) if len(values) == wanted_pairs]
    found = estimate([statistics.fmean(values) for values in whole])
    if found is None or found.samples < 2:
        verdict = UNDECIDED
    elif found.low > claim.by:
        verdict = HELD
    elif found.high < claim.by:
        verdict = NOT_HELD
    else:
        verdict = UNDECIDED
    return Verdict(claim, found, verdict)
