import math

import pytest

from launch.studies.claims import HELD, MOST_SEEDS, NOT_HELD, UNDECIDED, combinations_of, decide_claim
from launch.studies.intervals import for_every_number, for_fixed_number
from launch.studies.plan import Cell, Claim, Study

STUDY = Study(
    description="a study",
    recipe="base",
    compare="method",
    grid={"method": {"a": {}, "b": {}, "c": {}}, "size": {"small": {}, "large": {}}},
)
AHEAD_BY_5 = Claim(better="a", than="b", at={"size": "small"}, by=5)


def cell(method: str, size: str, seed: int) -> Cell:
    return Cell((("method", method), ("size", size)), seed)


def scores(**by_method: list[float]) -> dict[Cell, float]:
    """Scores of the small runs by seed."""
    return {cell(m, "small", seed): s for m, values in by_method.items() for seed, s in enumerate(values)}


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


def test_a_sequential_study_asks_for_a_wider_interval() -> None:
    asked = STUDY.model_copy(update={"device_hours": 1.0, "claims": (AHEAD_BY_5,)})
    found = scores(a=[50, 51, 52], b=[40, 41, 43])  # 9.67 with a standard deviation of 0.58
    assert decide_claim(STUDY, AHEAD_BY_5, found).verdict == HELD
    evaluated = decide_claim(asked, AHEAD_BY_5, found)
    assert evaluated.difference is not None
    assert evaluated.difference.half == pytest.approx(for_every_number(3) * 3**-0.5 / 3**0.5)
    close = scores(a=[50, 51, 52], b=[44, 45, 46.6])  # 5.8, 0.35
    assert decide_claim(STUDY, AHEAD_BY_5, close).verdict == UNDECIDED
    pair = scores(a=[50, 51], b=[40, 41.01])
    assert decide_claim(STUDY, AHEAD_BY_5, pair).verdict == HELD
    assert decide_claim(asked, AHEAD_BY_5, pair).verdict == UNDECIDED  # two seeds say too little


def test_an_open_claim_tells_how_many_seeds_would_decide_it_and_what_they_cost() -> None:
    found = scores(
        a=[56, 57, 58], b=[50, 48, 52]
    )  # 6, 9 and 6: a mean of 7, and a standard deviation of 1.73
    hours = dict.fromkeys(combinations_of(STUDY, AHEAD_BY_5), 0.5)
    evaluated = decide_claim(STUDY, AHEAD_BY_5, found, hours)
    assert evaluated.verdict == UNDECIDED
    needed = evaluated.seeds_needed
    assert needed is not None
    assert for_fixed_number(needed) * 3**0.5 / math.sqrt(needed) < 2
    assert for_fixed_number(needed - 1) * 3**0.5 / math.sqrt(needed - 1) >= 2
    assert evaluated.hours_needed == pytest.approx(2 * 0.5 * (needed - 3))
    said = f"about {needed} seeds and {needed - 3:.1f} more device-hours would decide it"
    assert said in str(evaluated)
    assert f"about {needed} seeds would decide it" in str(decide_claim(STUDY, AHEAD_BY_5, found))


def test_a_claim_at_its_margin_is_out_of_reach() -> None:
    found = scores(a=[56, 57, 58], b=[52, 50, 54])  # a mean of 5
    evaluated = decide_claim(STUDY, AHEAD_BY_5, found)
    assert evaluated.seeds_needed is None
    assert f"more than {MOST_SEEDS} seeds would be needed" in str(evaluated)
    assert "needed" not in str(decide_claim(STUDY, AHEAD_BY_5, scores(a=[56], b=[50])))


def test_a_claim_compares_all_choices_of_an_open_axis() -> None:
    assert combinations_of(STUDY, AHEAD_BY_5) == [
        (("method", "a"), ("size", "small")),
        (("method", "b"), ("size", "small")),
    ]
    assert len(combinations_of(STUDY, Claim(better="a", than="c"))) == 4
