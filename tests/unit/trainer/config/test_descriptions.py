from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, Field

from data_pipelines.settings import Strength
from data_pipelines.urls import Place
from trainer.config.descriptions import limits, takes, written


class Sample(BaseModel):
    text: str = Field("", min_length=2, max_length=5, pattern="^a|b$")
    big: int = Field(0, lt=2**31)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (int | None, "an integer or null"),
        (Literal["a", "b"], "a or b"),
        (Place | None, "a path or a URL or null"),
        (tuple[float, float], "a list of 2 values, each a number"),
        (tuple[Strength, Strength], "a list of 2 values, each a number, at least 0 and below 1"),
        (tuple[int, str], "a list of 2 values: an integer, text"),
        (tuple[str, ...], "a list of values, each text"),
        (list[Path], "a list of values, each a path"),
        (dict[str, str | int], "names with values, each text or an integer"),
        (Annotated[int, Ge(3)], "an integer, at least 3"),
        (Any, "any value"),
        (BaseModel, "settings"),
    ],
)
def test_a_type_is_in_words(annotation: Any, words: str) -> None:
    assert takes(annotation) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (None, "null"),
        ("", '""'),
        ((0.9, 4 / 3), "[0.9, 1.3333333333333333]"),
        ({"a": {"b": False}, "c": []}, "{a: {b: false}, c: []}"),
        (Path("a/b"), "a/b"),
        (1000, "1000"),
    ],
)
def test_values_are_written_as_a_recipe_has_them(value: Any, text: str) -> None:
    assert written(value) == text


def test_the_reference_rounds_fractions() -> None:
    assert written((4 / 3, 1e-5, 100_000), digits=4) == "[1.333, 1e-05, 100000]"


def test_limits_are_in_words() -> None:
    assert limits([Gt(0), Le(0.5)]) == "above 0 and at most 0.5"
    assert limits([Ge(1), Lt(1e-4)]) == "at least 1 and below 0.0001"
    assert limits([Ge(None), Le(None)]) == ""
    fields = Sample.model_fields
    assert takes(int, fields["big"].metadata) == "an integer, below 2147483648"
    lengths = "text, with a length of at least 2 and with a length of at most 5 and matching `^a|b$`"
    assert takes(str, fields["text"].metadata) == lengths
