import math

import pytest
from scipy import stats

from launch.studies.plan import Cell, Study
from launch.studies.statistics import estimate, table

STUDY = Study(
    description="a study",
    recipe="base",
    compare="method",
    grid={"method": {"a": {}, "b": {}, "c": {}}, "size": {"small": {}, "large": {}}},
)


def cell(method: str, size: str, seed: int) -> Cell:
    return Cell((("method", method), ("size", size)), seed)


CELLS = [cell(m, s, seed) for m in "abc" for s in ("small", "large") for seed in range(3)]


def scores(**by_method: list[float]) -> dict[Cell, float]:
    """Scores of the small runs by seed."""
    return {cell(m, "small", seed): s for m, values in by_method.items() for seed, s in enumerate(values)}


def test_an_interval_is_students() -> None:
    values = [3.0, 5.0, 4.5, 2.0]
    found = estimate(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 3, loc=found.mean, scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    alone = estimate([4.0])
    assert alone is not None
    assert math.isinf(alone.half)
    assert str(alone) == "4.00"
    assert estimate([]) is None


def test_a_row_is_compared_with_the_best_other_choice_by_the_seeds_of_both() -> None:
    found = {
        row.choices: row
        for row in table(STUDY, CELLS, scores(a=[50, 52, 54], b=[40, 41, 45], c=[49, 40, 40]))
    }
    first = found[(("method", "a"), ("size", "small"))]
    assert first.best_other == "c"  # 43 on average, and b 42
    assert first.score is not None
    assert first.score.mean == 52
    assert first.difference is not None
    assert first.difference.mean == pytest.approx((1 + 12 + 14) / 3)
    second = found[(("method", "b"), ("size", "small"))]
    assert (second.best_other, second.difference.mean if second.difference else 0) == ("a", -10)
    empty = found[(("method", "a"), ("size", "large"))]
    assert (empty.score, empty.difference, empty.wanted) == (None, None, 3)


def test_half_a_study_is_paired_by_what_there_is() -> None:
    rows = table(STUDY, CELLS, scores(a=[50, 52], b=[40]))
    assert rows[0].difference is not None
    assert (rows[0].difference.mean, rows[0].difference.samples) == (10, 1)
