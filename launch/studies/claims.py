"""Verdicts on the claims of a study, and how many seeds would decide what is open."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from launch.studies.plan import Choices, Claim, Study, combinations
from launch.studies.statistics import Estimate, HalfWidth, Scores, estimate, half_width, without_axis

HELD, NOT_HELD, UNDECIDED = "held", "not held", "not decided by this budget"
MOST_SEEDS = 1000
"""A claim that would need more seeds is too close to its margin for a study."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim."""

    claim: Claim
    difference: Estimate | None
    verdict: str
    seeds_needed: int | None = None
    """Number of seeds that would decide it, if the mean and the spread of the differences stayed as they are. None: it
    is decided, the spread is not known, or more than `MOST_SEEDS` would be needed."""
    hours_needed: float | None = None
    """Device-hours of the seeds that are missing. None: they are not known."""

    def __str__(self) -> str:
        at = " at " + ", ".join(f"{a}={c}" for a, c in self.claim.at.items()) if self.claim.at else ""
        by = f" by more than {self.claim.by:g} point{'s' * (self.claim.by != 1)}" if self.claim.by else ""
        source = f" ({self.claim.source})" if self.claim.source else ""
        measured = (
            f"{self.difference.mean:+.2f} points"
            + (f" ± {self.difference.half:.2f}" if math.isfinite(self.difference.half) else "")
            + f" over {self.difference.samples} seed{'s' * (self.difference.samples > 1)}"
            + self._needed()
            if self.difference
            else "no seed has finished all of its runs"
        )
        return f"{self.claim.better} is better than {self.claim.than}{at}{by}{source}: {self.verdict} ({measured})"

    def _needed(self) -> str:
        if self.verdict != UNDECIDED or self.difference is None or self.difference.samples < 2:
            return ""
        if self.seeds_needed is None:
            return f"; more than {MOST_SEEDS} seeds would be needed"
        hours = f" and {self.hours_needed:.1f} more device-hours" if self.hours_needed is not None else ""
        return f"; about {self.seeds_needed} seeds{hours} would decide it"


def decide_claim(
    study: Study, claim: Claim, scores: Scores, hours: Mapping[Choices, float] | None = None
) -> Verdict:
    """Decide whether a claim holds: the whole interval of its differences must exceed the margin.

    Runs are paired by seed and by all other choices. If the claim leaves axes open, the difference of a seed is the
    mean over their choices, all of which must be finished. Runs of one seed are not independent samples, because they
    share images and order.

    Args:
        study: the study.
        claim: one of its claims.
        scores: accuracies of the finished runs.
        hours: device-hours of one run of each combination, for the cost of the seeds that are missing.
    """
    values, width = _differences(study, claim, scores), half_width(study)
    found = estimate(values, width)
    if found is None or found.samples < 2:
        return Verdict(claim, found, UNDECIDED)
    if found.low > claim.by:
        return Verdict(claim, found, HELD)
    if found.high < claim.by:
        return Verdict(claim, found, NOT_HELD)
    needed = _seeds_needed(values, claim.by, width)
    costs = [(hours or {}).get(choices) for choices in combinations_of(study, claim)]
    per_seed = None if None in costs else sum(cost for cost in costs if cost is not None)
    more = None if needed is None or per_seed is None else (needed - found.samples) * per_seed
    return Verdict(claim, found, UNDECIDED, needed, more)


def combinations_of(study: Study, claim: Claim) -> list[Choices]:
    """Return the combinations of choices that a claim compares."""
    wanted = {axis: [choice] for axis, choice in claim.at.items()}
    wanted[study.compare] = [claim.better, claim.than]
    return combinations({axis: wanted.get(axis, list(choices)) for axis, choices in study.grid.items()})


def _differences(study: Study, claim: Claim, scores: Scores) -> list[float]:
    """Return the difference of each seed of which all runs are finished, by seed."""
    sides: dict[str, dict[tuple[int, Choices], float]] = {claim.better: {}, claim.than: {}}
    compared = set(combinations_of(study, claim))
    for cell, score in scores.items():
        if cell.choices in compared:
            others = without_axis(cell.choices, study.compare)
            sides[dict(cell.choices)[study.compare]][cell.seed, others] = score
    left, right = sides[claim.better], sides[claim.than]
    by_seed: dict[int, list[float]] = {}
    for seed, others in left.keys() & right.keys():
        by_seed.setdefault(seed, []).append(left[seed, others] - right[seed, others])
    pairs = len(compared) // 2
    return [statistics.fmean(values) for _, values in sorted(by_seed.items()) if len(values) == pairs]


def _seeds_needed(values: Iterable[float], margin: float, width: HalfWidth) -> int | None:
    values = list(values)
    distance, spread = abs(statistics.fmean(values) - margin), statistics.stdev(values)
    for seeds in range(len(values) + 1, MOST_SEEDS + 1):
        if width(seeds) * spread / math.sqrt(seeds) < distance:
            return seeds
    return None
