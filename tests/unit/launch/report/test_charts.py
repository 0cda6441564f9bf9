"""The map of features: classes have their colors and names, however they are called."""

import base64

import numpy as np

from launch.report.charts import UNLABELED, map_chart
from trainer.visualization.feature_map import FeatureMap


def a_map(labels: list[int], classes: tuple[str, ...]) -> FeatureMap:
    places = np.random.default_rng(0).random((len(labels), 2)).astype(np.float32)
    return FeatureMap(places, np.array(labels), classes, "PCA", "online", 1200, of_validation=True)


def test_classes_have_colors_and_stand_in_the_legend_as_they_are_called() -> None:
    names = ("$x^$", "猫", "_hidden")
    figure, legend = map_chart(a_map([2, 0, -1, 1, 2], names))
    assert list(legend) == list(names)
    assert len({*legend.values(), UNLABELED}) == 4
    assert figure.title == "PCA of 5 features of the online backbone, step 1,200, colored by 3 classes"
    assert base64.b64decode(figure.uri.partition(",")[2]).startswith(b"\x89PNG")


def test_more_classes_than_a_legend_holds_are_counted() -> None:
    figure, legend = map_chart(a_map(list(range(50)), tuple(f"class {i}" for i in range(50))))
    assert legend == {}
    assert figure.alt.endswith("colored by 50 classes")


def test_images_without_labels_are_gray() -> None:
    figure, legend = map_chart(a_map([-1, -1], ()))
    assert legend == {}
    assert "color" not in figure.alt
