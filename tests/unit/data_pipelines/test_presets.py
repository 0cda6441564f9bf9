from typing import Any

import pytest
from pydantic import ValidationError

from data_pipelines.presets import PRESETS
from data_pipelines.settings import DataSettings, ViewSettings


def views(value: Any) -> tuple[ViewSettings, ...]:
    return DataSettings.model_validate({"views": value, "eval_resize": 256}).views


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_two_views(name: str) -> None:
    assert len(views(name)) == 2


def test_a_preset_is_what_its_paper_says() -> None:
    first, second = views("byol")
    assert (first.blur_prob, first.solarize_prob, second.blur_prob, second.solarize_prob) == (
        1.0,
        0.0,
        0.1,
        0.2,
    )
    assert (first.brightness, first.contrast, first.saturation, first.hue, first.color_jitter_prob) == (
        0.4,
        0.4,
        0.2,
        0.1,
        0.8,
    )
    weak = views("weak")[0]
    assert (
        weak.color_jitter_prob,
        weak.grayscale_prob,
        weak.blur_prob,
        weak.solarize_prob,
        weak.flip_prob,
    ) == (0, 0, 0, 0, 0.5)


def test_large_and_small_views_in_one_list() -> None:
    found = views([{"preset": "byol", "size": 160}, {"size": 96, "crop_scale": [0.05, 0.14], "count": 6}])
    assert [view.size for view in found] == [160, 160] + [96] * 6
    assert [view.blur_prob for view in found[:3]] == [1.0, 0.1, 0.0]


def test_what_is_written_out_is_read_again() -> None:
    settings = DataSettings(views="all4one_imagenet")  # type: ignore[arg-type]
    assert DataSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("byoll", "did you mean byol"),
        ("nothing alike", "available presets: all4one_cifar"),
        ([{"preset": "weak", "count": 0}], "count must be a positive whole number"),
        ([{"preset": "weak", "counts": 2}], "counts"),
        ([{"size": 32}], "at least two views"),
        (7, "tuple"),
    ],
)
def test_wrong_views_are_told(value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        views(value)
