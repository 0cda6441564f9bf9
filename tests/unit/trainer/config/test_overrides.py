from typing import Any

import pytest

from data_pipelines.errors import UserError
from trainer.config.overrides import apply, parse_override


def over(values: dict[str, Any], *assignments: str) -> dict[str, Any]:
    return apply(values, [parse_override(assignment) for assignment in assignments])


def test_an_override_does_not_lose_siblings() -> None:
    values = {"a": {"b": 1, "c": 2}}
    assert over(values, "a.b=3", "d.e=4") == {"a": {"b": 3, "c": 2}, "d": {"e": 4}}
    assert values == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("'1e-3'", "1e-3"),
        ('"12345"', "12345"),
        ("12345", 12345),
        ("1h", "1h"),
        ("# x", "# x"),
        ("- a", "- a"),
        ("a: b", "a: b"),
        ("3 # x", "3 # x"),
        ("!!int 3", "!!int 3"),
        ("[1, a]", [1, "a"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("", None),
        ("null", None),
    ],
)
def test_only_brackets_and_quotes_are_yaml(text: str, value: object) -> None:
    assert over({}, f"a={text}") == {"a": value}


@pytest.mark.parametrize("text", ["{a: 1", "[1", "'a", "{a: 1, a: 2}", "[" * 3000])
def test_yaml_that_is_not_closed_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not valid YAML"):
        parse_override(f"a={text}")


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not of the form key=value"):
        parse_override(text)


LARS = {"optim": {"name": "lars", "lr": 1.0, "betas": [1, 2]}}


@pytest.mark.parametrize(
    ("given", "optim"),
    [
        (["optim=adamw"], {"name": "adamw"}),
        (["optim.name=adamw"], {"name": "adamw"}),
        (["optim={name: adamw}"], {"name": "adamw"}),
        (["optim={name: adamw, lr: 2}"], {"name": "adamw", "lr": 2}),
        (["optim.lr=2", "optim={name: adamw}"], {"name": "adamw", "lr": 2}),
        (["optim={name: adamw}", "optim.lr=2"], {"name": "adamw", "lr": 2}),
        (["optim.lr=3", "optim={name: adamw, lr: 2}"], {"name": "adamw", "lr": 2}),
        (["optim={name: adamw, lr: 2}", "optim.lr=3"], {"name": "adamw", "lr": 3}),
        (["optim=sgd", "optim.lr=2", "optim=adamw"], {"name": "adamw", "lr": 2}),
        (["optim=lars"], LARS["optim"]),
        (["optim={name: lars}"], LARS["optim"]),
        (["optim=adamw", "optim=lars"], LARS["optim"]),
        (["optim={lr: 2}"], {**LARS["optim"], "lr": 2}),
        (["optim={name: lars, lr: 2}"], {**LARS["optim"], "lr": 2}),
        (["optim.betas.1=3"], {**LARS["optim"], "betas": [1, 3]}),
    ],
)
def test_components_are_selected_first_and_settings_are_merged(given: list[str], optim: object) -> None:
    assert over(LARS, *given) == {"optim": optim}


def test_nested_settings_are_merged_as_in_recipes() -> None:
    values = {"run": {"name": "a", "seed": 1}, "data": {"views": [{"size": 8, "hue": 0}, {"size": 9}]}}
    assert over(values, "run={name: b}")["run"] == {"name": "b", "seed": 1}
    assert over(values, "data.views.0={size: 7}")["data"]["views"] == [{"size": 7, "hue": 0}, {"size": 9}]
    assert over(values, "data={views: []}")["data"] == {"views": []}
    with pytest.raises(UserError, match="'1' is 'b', which has no settings inside"):
        over({"data": {"train": ["a", "b"]}}, "data.train.1.weight=2")


def test_what_holds_a_value_has_nothing_below_it() -> None:
    with pytest.raises(UserError, match=r"train.epochs.first: 'epochs' is 3, which has no settings"):
        over({"train": {"epochs": 3}}, "train.epochs.first=1")


@pytest.mark.parametrize("index", ["2", "-1", "\N{SUPERSCRIPT TWO}", "x"])
def test_an_index_must_be_in_the_list(index: str) -> None:
    with pytest.raises(UserError, match="is not an index of a list with 2 items"):
        over({"a": [1, 2]}, f"a.{index}=3")
