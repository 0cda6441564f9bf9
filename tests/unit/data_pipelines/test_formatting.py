import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.formatting import amount, duration, nearest_multiples, percent, quoted


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_a_time_has_the_largest_unit_of_which_there_are_two(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_fractions_are_percents_with_two_decimals() -> None:
    assert (percent(0.45735), percent(1, unit=False), percent(None)) == ("45.73 %", "100.00", "")


@given(number=st.integers(1, 500), unit=st.integers(1, 50), least=st.integers(1, 3))
def test_the_nearest_multiples_enclose_the_number(number: int, unit: int, least: int) -> None:
    found = nearest_multiples(number, unit, least=least)
    assert found
    for multiple in found:
        assert multiple % unit == 0
        assert multiple >= least * unit
        assert multiple != number
        assert abs(multiple - number) <= max(unit, least * unit)


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_quoted_path_is_one_word_of_a_shell(path: str) -> None:
    assert shlex.split(f"all4one resume {quoted(path)} --nproc 2") == [
        "all4one",
        "resume",
        path,
        "--nproc",
        "2",
    ]


def test_words_agree_with_their_number() -> None:
    assert amount(1, "tar is", "tars are") == "1 tar is"
    assert [amount(number, "tar is", "tars are") for number in (0, 2000)] == ["0 tars are", "2,000 tars are"]
