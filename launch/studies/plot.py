"""The picture of a study: every combination with its interval."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from launch.figures import drawn
from launch.studies.plan import Study
from launch.studies.statistics import Row

LETTERS = 11
"""Of a title, on an inch."""


def plot(asked: Study, rows: Sequence[Row], path: Path) -> None:
    """Draw the rows as a PNG: a group for each combination of the other axes, a mark for each compared choice."""
    names = list(asked.grid[asked.compare])
    groups = list(dict.fromkeys(_others(row, asked.compare) for row in rows))
    width = max(5.0, 1.2 * len(groups) * len(names) ** 0.5 + 3)
    with drawn(path, figsize=(width, 4)) as (axes,):
        for number, name in enumerate(names):
            found = {
                _others(row, asked.compare): row.score
                for row in rows
                if dict(row.choices)[asked.compare] == name and row.score is not None
            }
            places = [groups.index(g) + 0.7 * ((number + 0.5) / len(names) - 0.5) for g in found]
            means = [score.mean for score in found.values()]
            halves = [score.half if math.isfinite(score.half) else math.nan for score in found.values()]
            axes.errorbar(places, means, yerr=halves, fmt="o", capsize=4, label=name)
        axes.set_xticks(range(len(groups)), [g or "all" for g in groups])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_ylabel(f"{asked.judge} top-1, % (mean, 95 % interval)")
        axes.set_title(textwrap.fill(asked.description, int(LETTERS * width)), fontsize=10)
        axes.legend(frameon=False, title=asked.compare)


def _others(row: Row, compare: str) -> str:
    return ", ".join(f"{axis} {choice}" for axis, choice in row.choices if axis != compare)
