"""Charts of the report, embedded in the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.colors import to_hex

from launch.figures import drawn_into
from launch.report.curves import Curve, is_share
from trainer.visualization.feature_map import FeatureMap

LEGEND = 20
"""Maximum number of classes or labels in a legend."""
UNLABELED = "#b0b0b0"
"""Color of images without a label."""
_SIZE = (4.2, 2.4)  # inches; text stays readable on a phone, which shows one chart per line


class Figure(NamedTuple):
    """An image on the page."""

    title: str
    uri: str
    """Its content as a `data:…` URI."""
    alt: str
    """Alternative text that describes the image."""


def data_uri(content: bytes, kind: str) -> str:
    """Return an image as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def line_chart(name: str, lines: Sequence[tuple[str, Curve]], colors: Mapping[str, str]) -> Figure:
    """Draw one value of one or several runs over epochs.

    Args:
        name: name of the value.
        lines: each curve with its label. Several curves may share a label.
        colors: color of each label.
    """
    scale = 100 if is_share(name) else 1
    target = io.BytesIO()
    with drawn_into(target, "svg", figsize=_SIZE) as (axes,):
        for label, (epochs, values) in lines:
            few = "o-" if len(values) < 25 else "-"
            scaled = [scale * value for value in values]
            axes.plot(epochs, scaled, few, color=colors[label], lw=1.2, ms=3, alpha=0.9)
        distinct = {scale * value for _, curve in lines for value in curve.values}
        if len(distinct) == 1:  # its axis would have almost no height
            axes.set_ylim(*sorted((0.0, 2 * distinct.pop() or 1.0)))
        axes.set_xlabel("epochs")
        axes.set_ylabel("%" if scale == 100 else "")
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.25, lw=0.6)
    last = "; ".join(f"{label} ends at {scale * curve.values[-1]:.4g}" for label, curve in lines[:LEGEND])
    return Figure(name, data_uri(target.getvalue(), "svg+xml"), f"{name} over epochs: {last}")


def map_chart(found: FeatureMap) -> tuple[Figure, dict[str, str]]:
    """Draw a feature map, colored by class if classes are known. Also return the color of each class for a legend."""
    from matplotlib import colormaps

    labels = sorted({label for label in found.labels.tolist() if label >= 0})
    if len(labels) <= LEGEND:
        colors = dict(
            zip(labels, colors_of([found.classes[label] for label in labels]).values(), strict=True)
        )
    else:
        colors = {label: to_hex(colormaps["turbo"](n / len(labels))) for n, label in enumerate(labels)}
    target = io.BytesIO()
    with drawn_into(target, "png", figsize=(7.5, 6), dpi=130) as (axes,):
        shown = [colors.get(label, UNLABELED) for label in found.labels.tolist()]
        axes.scatter(*found.places.T, s=9, c=shown, linewidths=0)
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
    title = (
        f"{found.how} of {len(found.labels):,} features of the {found.backbone} backbone, step {found.step:,}"
    )
    by_class = f", colored by {len(labels)} classes" if labels else ""
    legend = {found.classes[label]: colors[label] for label in labels} if len(labels) <= LEGEND else {}
    return Figure(title + by_class, data_uri(target.getvalue(), "png"), title + by_class), legend


def colors_of(labels: Sequence[str]) -> dict[str, str]:
    """Return a color for each label, in order. Colors repeat if there are more labels than colors."""
    from matplotlib import colormaps

    distinct = list(dict.fromkeys(labels))
    palette = colormaps["tab10" if len(distinct) <= 10 else "tab20"]
    return {label: to_hex(palette(place % palette.N)) for place, label in enumerate(distinct)}
