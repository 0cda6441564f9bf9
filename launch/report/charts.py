"""Charts of the report, embedded in the page."""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.figures import drawn_into
from launch.report.curves import Curve
from launch.report.metrics import TAU, axis_limits, describe, formatted, is_count, is_percent

if TYPE_CHECKING:
    from trainer.visualization.feature_map import FeatureMap

LEGEND = 20
"""Maximum number of classes or labels in a legend."""
UNLABELED = "#b0b0b0"
"""Color of images without a label."""
_INK = "#010203"  # stands for the color of the page's text until the drawing is on the page
_SIZE = (4.2, 2.4)  # inches; text stays readable on a phone, which shows one chart per line


class Figure(NamedTuple):
    """A drawing on the page: an image or an inline SVG."""

    title: str
    alt: str
    """Alternative text that describes the drawing."""
    uri: str = ""
    """Content of an image as a `data:…` URI."""
    svg: str = ""
    """Content of an inline SVG. Its axes have the color of the page's text, also in dark mode."""
    box: str = ""
    """View box of the SVG."""
    name: str = ""
    """Name of the value in metrics.jsonl."""
    newest: str = ""
    """The newest value with its epoch, and the first value."""
    meaning: str = ""
    """What the drawing shows, and what is good."""


def data_uri(content: bytes, kind: str) -> str:
    """Return an image as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def line_chart(
    name: str, lines: Sequence[tuple[str, Curve]], colors: Mapping[str, str], end: float | None = None
) -> Figure:
    """Draw one value of one or several runs over epochs.

    Args:
        name: name of the value.
        lines: each curve with its label. Several curves may share a label.
        colors: color of each label.
        end: last epoch of the axis. None: the last epoch of the curves.
    """
    from matplotlib.ticker import MaxNLocator

    scale = 100 if is_percent(name) else 1
    last_epoch = end or max(curve.epochs[-1] for _, curve in lines) or 1.0
    target = io.BytesIO()
    with drawn_into(target, "svg", figsize=_SIZE) as (axes,):
        for label, (epochs, values) in lines:
            few = "o-" if len(values) < 25 else "-"
            scaled = [scale * value for value in values]
            # Without clipping a line at the end of an axis keeps its width.
            axes.plot(epochs, scaled, few, color=colors[label], lw=1.4, ms=3, alpha=0.9, clip_on=False)
        limits = axis_limits(name, [value for _, curve in lines for value in curve.values])
        axes.set_ylim(*limits)
        axes.set_xlim(0, last_epoch)
        axes.set_xlabel("epochs", color=_INK)
        starts_elsewhere = limits[0] > 0 or limits[1] < 0
        axes.set_ylabel(
            "%" if scale == 100 else "does not start at 0" if starts_elsewhere else "", color=_INK
        )
        axes.ticklabel_format(axis="y", useOffset=False)
        if is_count(name):
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(color=_INK, labelcolor=_INK)
        axes.spines[:].set_color(_INK)
        axes.grid(color=_INK, alpha=0.15, lw=0.6)
        _show_the_page_behind(axes)
    box, svg = _inline(target.getvalue().decode(), name)
    metric = describe(name)
    last = "; ".join(
        f"{label} ends at {formatted(name, curve.values[-1])}" for label, curve in lines[:LEGEND]
    )
    newest = ""
    if len(lines) == 1:
        epochs, values = lines[0][1]
        first = "before training" if name.startswith("knn_") and epochs[0] == 0 else "first"
        newest = (
            f"{formatted(name, values[-1])} at epoch {epochs[-1]:.4g}, {first} {formatted(name, values[0])}"
        )
    return Figure(
        metric.label,
        f"{metric.label} over epochs: {last}",
        svg=svg,
        box=box,
        name="" if name == TAU else name,  # τ is not in the file
        newest=newest,
        meaning=metric.meaning,
    )


def _show_the_page_behind(axes: Any) -> None:
    """Draw no ground, because that of the page is light or dark."""
    axes.figure.patch.set_visible(False)
    axes.patch.set_visible(False)


def _inline(document: str, name: str) -> tuple[str, str]:
    """Return the view box and the content of an SVG for use inside of HTML.

    Axes take the color of the page's text. Matplotlib's style sheet would apply to the whole page, and its ids would
    repeat on it.
    """
    opening = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', document)
    assert opening is not None
    content = document[opening.end() : document.rindex("</svg>")]
    content = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", content, flags=re.DOTALL)
    content = re.sub(r'<g id="[^"]*"', "<g", content)
    content = content.replace(_INK, "currentColor")
    own = hashlib.sha256(name.encode()).hexdigest()[:8]
    content = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>c{own}-", content)
    return opening[1], re.sub(r"\n\s*", "\n", content).strip()


def map_chart(found: "FeatureMap") -> tuple[Figure, dict[str, str]]:
    """Draw a feature map, colored by class if classes are known. Also return the color of each class for a legend."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    labels = sorted({label for label in found.labels.tolist() if label >= 0})
    if len(labels) <= LEGEND:
        colors = dict(
            zip(labels, colors_of([found.classes[label] for label in labels]).values(), strict=True)
        )
    else:  # without the ends of the color map, which are too dark for a dark page
        colors = {
            label: to_hex(colormaps["turbo"](0.1 + 0.8 * n / len(labels))) for n, label in enumerate(labels)
        }
    target = io.BytesIO()
    with drawn_into(target, "png", figsize=(7.5, 6), dpi=130) as (axes,):
        shown = [colors.get(label, UNLABELED) for label in found.labels.tolist()]
        axes.scatter(*found.places.T, s=min(40, max(9, 12_000 / len(shown))), c=shown, linewidths=0)
        _show_the_page_behind(axes)
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
    title = (
        f"{found.how} of {len(found.labels):,} features of the {found.backbone} backbone, step {found.step:,}"
    )
    by_class = f", colored by {len(labels)} classes" if labels else ""
    legend = {found.classes[label]: colors[label] for label in labels} if len(labels) <= LEGEND else {}
    return Figure(title + by_class, title + by_class, uri=data_uri(target.getvalue(), "png")), legend


def colors_of(labels: Sequence[str]) -> dict[str, str]:
    """Return a color for each label, in order. Colors repeat if there are more labels than colors."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    distinct = list(dict.fromkeys(labels))
    palette = colormaps["tab10" if len(distinct) <= 10 else "tab20"]
    return {label: to_hex(palette(place % palette.N)) for place, label in enumerate(distinct)}
