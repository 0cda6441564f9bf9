import math

import pytest
from scipy import stats

from launch.studies.plan import Cell, Claim, Study
from launch.studies.statistics import HELD, NOT_HELD, UNDECIDED, decide_claim, estimate, table

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


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([50, 51, 52], [40, 41, 43], HELD),  # 9.67 ± 1.43
        ([50, 51, 52], [46.4, 47.5, 48.6], NOT_HELD),  # 3.5 ± 0.25
        ([50, 55, 45], [44, 45, 43], UNDECIDED),  # 6 ± 9.9
        ([50], [40], UNDECIDED),  # one pair says nothing
        ([], [], UNDECIDED),
    ],
)
def test_a_claim_is_held_where_the_whole_interval_is_beyond_its_margin(
    a: list[float], b: list[float], verdict: str
) -> None:
    claim = Claim(better="a", than="b", at={"size": "small"}, by=5)
    evaluated = decide_claim(STUDY, claim, scores(a=a, b=b))
    assert evaluated.verdict == verdict
    assert verdict in str(evaluated)
    assert "by more than 5 points" in str(evaluated)


def test_a_claim_that_leaves_an_axis_open_takes_its_mean_for_each_seed() -> None:
    found = scores(a=[50, 51, 52], b=[40, 41, 42])
    for seed, ahead in enumerate([9, 8, 4]):
        found |= {cell("a", "large", seed): 60.0 + ahead, cell("b", "large", seed): 60.0}
    evaluated = decide_claim(STUDY, Claim(better="a", than="b"), found)
    assert evaluated.difference is not None
    assert (evaluated.difference.samples, evaluated.difference.mean) == (3, pytest.approx((9.5 + 9 + 7) / 3))


def test_a_seed_counts_once_all_choices_of_the_open_axes_are_finished() -> None:
    claim = Claim(better="a", than="b")
    found = scores(a=[50, 51, 52], b=[40, 41, 42])
    evaluated = decide_claim(STUDY, claim, found)
    assert (evaluated.difference, evaluated.verdict) == (None, UNDECIDED)
    assert "no seed has finished all of its runs" in str(evaluated)
    found |= {cell("a", "large", 0): 45.0, cell("b", "large", 0): 50.0, cell("a", "large", 1): 99.0}
    evaluated = decide_claim(STUDY, claim, found)
    assert evaluated.difference is not None
    assert (evaluated.difference.samples, evaluated.difference.mean, evaluated.verdict) == (1, 2.5, UNDECIDED)


def test_the_same_seeds_at_more_choices_decide_no_more() -> None:
    claim = Claim(better="a", than="b")
    once = {cell(m, "small", s): 50.0 + (2 * s if m == "a" else 0) for m in "ab" for s in range(3)}
    again = {
        cell(m, "large", s): value
        for (m, s), value in {(c.choices[0][1], c.seed): v for c, v in once.items()}.items()
    }
    small = STUDY.model_copy(update={"grid": {**STUDY.grid, "size": {"small": {}}}})
    alone, both = decide_claim(small, claim, once), decide_claim(STUDY, claim, once | again)
    assert (alone.difference, alone.verdict) == (both.difference, both.verdict)
    assert alone.verdict == "not decided by this budget"
