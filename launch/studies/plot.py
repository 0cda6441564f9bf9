"""The figure of a study: every combination with its interval and its runs."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from launch.figures import drawn
from launch.studies.plan import Cell, Study
from launch.studies.statistics import Row, Scores

LETTERS = 11
"""Letters of a title per inch."""


def plot(asked: Study, rows: Sequence[Row], scores: Scores, path: Path) -> None:
    """Draw the rows as a PNG, with a group for each combination of the other axes and a mark for each compared choice.

    A gray line connects the runs of one seed, because intervals of means do not show paired differences.
    """
    names = list(asked.grid[asked.compare])
    groups = list(dict.fromkeys(_others(row, asked.compare) for row in rows))
    places = {
        (group, name): at + 0.7 * ((number + 0.5) / len(names) - 0.5)
        for at, group in enumerate(groups)
        for number, name in enumerate(names)
    }
    paired: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for cell, score in scores.items():
        group = _others(cell, asked.compare)
        place = places[group, dict(cell.choices)[asked.compare]]
        paired.setdefault((cell.seed, group), []).append((place, score))
    # in inches, including one or two for the legend
    width = max(6.5, 1.2 * len(groups) * len(names) ** 0.5 + 4)
    with drawn(path, figsize=(width, 4)) as (axes,):
        for points in paired.values():
            axes.plot(*zip(*sorted(points), strict=True), color="0.6", lw=0.8, marker=".", ms=4, zorder=1)
        for name in names:
            found = {
                places[_others(row, asked.compare), name]: row.score
                for row in rows
                if dict(row.choices)[asked.compare] == name and row.score is not None
            }
            halves = [score.half if math.isfinite(score.half) else math.nan for score in found.values()]
            means = [score.mean for score in found.values()]
            axes.errorbar([*found], means, yerr=halves, fmt="o", capsize=4, label=name)
        named = groups if any(groups) else []
        axes.set_xticks(range(len(named)), named)
        axes.figure.legend(frameon=False, title=asked.compare, loc="outside right center")
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_ylabel(f"{asked.evaluator} top-1, % (mean, 95 % interval)")
        axes.figure.suptitle(textwrap.fill(asked.description, int(LETTERS * width)), fontsize=10)


def _others(found: Row | Cell, compare: str) -> str:
    return ", ".join(f"{axis} {choice}" for axis, choice in found.choices if axis != compare)
