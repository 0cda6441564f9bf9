"""Statistics of a study: means, and differences paired by seed."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from launch.studies.intervals import for_every_number, for_fixed_number
from launch.studies.plan import Cell, Choices, Study

Scores = Mapping[Cell, float]
"""Accuracy of each finished run, in percent."""
HalfWidth = Callable[[int], float]
"""Half width of an interval, in standard errors, for a number of values."""


class Estimate(NamedTuple):
    """A mean with its 95 % interval. Too few values have none."""

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


def half_width(study: Study) -> HalfWidth:
    """Return the function that gives the half width of the study's intervals for a number of values."""
    return for_every_number if study.is_sequential else for_fixed_number


def estimate(values: Sequence[float], half_width: HalfWidth = for_fixed_number) -> Estimate | None:
    """Return mean and interval of independent values, or None without values.

    Args:
        values: the values.
        half_width: half width of the interval, in standard errors, for a number of values.
    """
    if not values:
        return None
    factor = half_width(len(values))
    half = factor * statistics.stdev(values) / math.sqrt(len(values)) if math.isfinite(factor) else math.inf
    return Estimate(statistics.fmean(values), half, len(values))


@dataclass(frozen=True)
class Row:
    """A combination of choices over its seeds."""

    choices: Choices
    score: Estimate | None
    wanted: int
    """Number of runs that the study plans."""
    difference: Estimate | None
    """Difference to the best other choice of the compared axis, paired by seed. None: nothing to compare with."""
    best_other: str


def table(study: Study, cells: Sequence[Cell], scores: Scores) -> list[Row]:
    """Return a row for each combination, in the order of the grid."""
    rows, width = [], half_width(study)
    for choices in dict.fromkeys(cell.choices for cell in cells):
        mine = [cell for cell in cells if cell.choices == choices]
        values = [scores[cell] for cell in mine if cell in scores]
        others = {
            dict(c)[study.compare]: c
            for c in dict.fromkeys(cell.choices for cell in cells)
            if c != choices and without_axis(c, study.compare) == without_axis(choices, study.compare)
        }
        means = {n: e.mean for n, c in others.items() if (e := estimate(_of(c, scores))) is not None}
        best = max(means, key=lambda name: means[name]) if means else ""
        difference = estimate(_paired(choices, others[best], scores), width) if best else None
        rows.append(Row(choices, estimate(values, width), len(mine), difference, best))
    return rows


def without_axis(choices: Choices, axis: str) -> Choices:
    """Return the choices of all axes but one."""
    return tuple((a, c) for a, c in choices if a != axis)


def _of(choices: Choices, scores: Scores) -> list[float]:
    return [score for cell, score in scores.items() if cell.choices == choices]


def _paired(left: Choices, right: Choices, scores: Scores) -> list[float]:
    """Return the differences between runs of the same seed."""
    other = {cell.seed: score for cell, score in scores.items() if cell.choices == right}
    return [
        score - other[cell.seed]
        for cell, score in scores.items()
        if cell.choices == left and cell.seed in other
    ]
