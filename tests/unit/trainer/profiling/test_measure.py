import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.profiling import measure

TIMES = st.lists(st.floats(0.1, 10), min_size=2, max_size=9)


@given(TIMES, st.floats(0.5, 100))
def test_a_spread_does_not_depend_on_the_unit_and_one_outlier_of_five_does_not_move_it(times, unit) -> None:
    assert measure._spread([t * unit for t in times]) == pytest.approx(measure._spread(times), abs=1e-9)
    assert measure._spread([1.0] * len(times)) == 0
    assert measure._spread([1.0, 1.0, 1.0, 1.0, times[0]]) == 0


def test_a_spread_in_numbers() -> None:
    assert measure._spread([1, 2, 3, 4, 5]) == pytest.approx((4 - 2) / 2 / 3)


@given(
    st.lists(
        st.fixed_dictionaries({n: st.floats(1, 2) for n in ("step", "without_data", "peak")}), min_size=2
    )
)
def test_each_value_is_the_median_of_its_rounds(rounds) -> None:
    medians, spread = measure._median_over_rounds(rounds)
    assert medians == {n: statistics.median(r[n] for r in rounds) for n in rounds[0]}
    assert set(spread) == {"step", "without_data", "peak"}


@given(st.data())
def test_the_parts_of_a_step_sum_to_it_however_the_rounds_are_disturbed(data: st.DataObject) -> None:
    names = [f"part {name}" for name in ("online forward", "update", "other")]
    rounds = data.draw(
        st.lists(st.fixed_dictionaries({n: st.floats(0.1, 10) for n in names}), min_size=2, max_size=7)
    )
    measured = [
        one | {"step": 9.0, "peak": 1.0, "without_data": sum(one.values()), f"part {measure.WAIT}": 0.5}
        for one in rounds
    ]
    medians, _ = measure._median_over_rounds(measured)
    assert sum(medians[n] for n in names) == pytest.approx(medians["without_data"])
    assert medians[f"part {measure.WAIT}"] == 0.5


def test_equal_rounds_give_the_parts_that_they_measured() -> None:
    one = {"step": 4.0, "peak": 1.0, "without_data": 2.0, "part update": 0.5, "part other": 1.25}
    medians, _ = measure._median_over_rounds([one, one, one])
    assert medians == pytest.approx(one)
