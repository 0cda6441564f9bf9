from collections.abc import Sequence

import optuna
import pytest

from data_pipelines.errors import UserError
from launch.tuning.search_space import read_space


def suggested(text: str, count: int = 200) -> list[str]:
    """Values that a random sampler suggests, without the key."""
    (dimension,) = read_space([text])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [dimension.suggest(study.ask()).partition("=")[2] for _ in range(count)]


def test_ranges_of_fractions_and_of_whole_numbers() -> None:
    fractions = [float(value) for value in suggested("optim.lr=0.1..3")]
    assert 0.1 <= min(fractions) < 0.3
    assert 2.8 < max(fractions) <= 3
    whole = {int(value) for value in suggested("method.num_neighbors=2..10")}
    assert whole == set(range(2, 11))


def test_a_logarithmic_range_gives_every_decade_the_same_share() -> None:
    values = [float(value) for value in suggested("optim.lr=1e-4..1:log", 1000)]
    shares = [sum(low <= value < 10 * low for value in values) for low in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert sum(shares) == 1000
    assert all(200 < share < 300 for share in shares)


def test_lists_keep_commas_inside_of_brackets() -> None:
    assert set(suggested("data.views=[a,b],[c]")) == {"[a,b]", "[c]"}
    assert set(suggested("optim.name=lars,adamw")) == {"lars", "adamw"}


def test_the_same_trial_gets_the_same_value_again() -> None:
    (dimension,) = read_space(["optim.lr=0.1..3"])
    trial = optuna.create_study().ask()
    assert dimension.suggest(trial) == dimension.suggest(trial)


def test_the_ends_of_a_range_and_all_choices_are_checked_before_a_search() -> None:
    space = read_space(["optim.lr=0.1..3", "method.num_neighbors=2..10", "optim.name=lars,adamw"])
    assert [one.ends for one in space] == [("0.1", "3.0"), ("2", "10"), ("lars", "adamw")]


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ([], "at least one setting"),
        (["optim.lr"], "gives no values"),
        (["=1,2"], "gives no values"),
        (["optim.lr=3..1"], "the lower end comes first"),
        (["optim.lr=0..1:log"], "above 0"),
        (["optim.lr=a..b"], "no range of numbers"),
        (["optim.lr=0.1..1:lgo"], "no range of numbers"),
        (["optim.lr=1"], "only one value"),
        (["optim.lr=1,1"], "one twice"),
        (["optim.lr=1,,2"], "empty value"),
        (["optim.lr=1,2", "optim.lr=3,4"], "names optim.lr twice"),
    ],
)
def test_what_is_no_space_is_refused(texts: Sequence[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        read_space(texts)
