import pytest

from data_pipelines.errors import UserError
from trainer.config.overrides import set_value


def test_set_value_does_not_lose_siblings() -> None:
    values = {"a": {"b": 1, "c": 2}}
    set_value(values, "a.b=3")
    set_value(values, "d.e=4")
    assert values == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("'1e-3'", "1e-3"), ('"12345"', "12345"), ("12345", 12345), ("1h", "1h")],
)
def test_numbers_in_quotes_stay_texts(text: str, value: object) -> None:
    values: dict[str, object] = {}
    set_value(values, f"a={text}")
    assert values == {"a": value}


def test_a_component_is_chosen_by_its_name_alone() -> None:
    values = {
        "method": {"name": "all4one", "num_neighbors": 3},
        "optim": {"name": "lars", "trust_coefficient": 1},
    }
    set_value(values, "method=nnclr")
    set_value(values, "method.temperature=0.2")
    set_value(values, "optim=lars")
    assert values == {
        "method": {"name": "nnclr", "temperature": 0.2},
        "optim": {"name": "lars", "trust_coefficient": 1},
    }


def test_what_holds_a_value_has_nothing_below_it() -> None:
    with pytest.raises(UserError, match=r"train.epochs.first: 'epochs' is 3, which has no settings"):
        set_value({"train": {"epochs": 3}}, "train.epochs.first=1")
