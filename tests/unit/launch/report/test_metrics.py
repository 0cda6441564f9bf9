"""Values have plain names, and axes that do not make a small change look like a large one."""

import re

import pytest

from launch.report.charts import line_chart
from launch.report.curves import GROUPS, Curve
from launch.report.metrics import TAU, axis_limits, describe, formatted


def tick_labels(name: str, values: list[float], end: float | None = None) -> list[str]:
    chart = line_chart(name, [("one", Curve([1.0, 2.0], values))], {"one": "#ff0000"}, end)
    return re.findall(r"<text[^>]*>([^<]*)</text>", chart.svg)


@pytest.mark.parametrize("name", ["knn_online", "online_top1", "data_wait", "queue_filled", "neighbor_share"])
def test_percent_end_at_0_and_100(name: str) -> None:
    assert axis_limits(name, [0.65, 0.80]) == (0, 100)
    assert {"0", "100"} <= set(tick_labels(name, [0.65, 0.80]))
    assert not {"120", "-20"} & set(tick_labels(name, [0.0, 1.0]))
    assert formatted(name, 0.6723) == "67.23 %"


@pytest.mark.parametrize(
    "name", ["gradient_norm", "z_std", "z_rank", "lr", "images_per_second", "of_another_package"]
)
def test_other_axes_contain_0_and_all_values(name: str) -> None:
    assert axis_limits(name, [6.9, 7.1])[0] == 0
    assert axis_limits(name, [6.9, 7.1])[1] >= 7.1
    low, high = axis_limits(name, [-0.9, -0.8])
    assert low <= -0.9
    assert high == 0
    low, high = axis_limits(name, [0.0, 0.0])
    assert low < high


def test_the_momentum_ends_at_1_and_says_that_its_axis_does_not_start_at_0() -> None:
    low, high = axis_limits(TAU, [0.99, 1.0])
    assert 0.98 < low < 0.99
    assert high == 1
    assert "does not start at 0" in describe(TAU).meaning


@pytest.mark.parametrize("name", ["loss", "online_loss", "neighbor", "centroid", "variance", "sigreg"])
def test_a_loss_that_changes_by_a_few_percent_fills_its_axis(name: str) -> None:
    for values in ([7.1, 6.9], [-0.9, -0.8]):
        low, high = axis_limits(name, values)
        assert min(values) - 0.05 < low < min(values) < max(values) < high < max(values) + 0.05
        assert "does not start at 0" in tick_labels(name, values)
    for values in ([7.1, 0.9], [0.5, -0.5]):
        low, high = axis_limits(name, values)
        assert low <= 0 <= high
        assert "does not start at 0" not in tick_labels(name, values)
    low, high = axis_limits(name, [6.9, 6.9 + 1e-9])  # rounding does not look like a change
    assert high - low > 0.005


def test_cosines_end_at_1() -> None:
    assert axis_limits("neighbor_cosine", [0.2, 0.8]) == (0, 1)
    assert axis_limits("neighbor_cosine", [-0.2, 0.8]) == (-1, 1)


def test_charts_of_a_page_end_at_the_same_epoch() -> None:
    assert "50" in tick_labels("loss", [3.0, 2.0], end=50.0)


def test_counts_have_whole_numbers() -> None:
    assert not [label for label in tick_labels("bad_samples", [0.0, 1.0], end=40.0) if "." in label]
    assert [label for label in tick_labels("loss", [0.0, 1.0], end=40.0) if "." in label]


def test_every_known_value_has_a_plain_name_and_an_explanation() -> None:
    known = [name for names in GROUPS.values() for name in names]
    for name in [*known, "loss", "z_std", "z_rank", "centroid_share", "ema_distance"]:
        label, meaning = describe(name)
        assert label != name
        assert "_" not in label
        assert meaning.endswith(".")
    assert describe("of_another_package").label == "of_another_package"
