"""Figures of the report as pictures that stand in the page itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from launch.figures import drawn_into
from launch.report.curves import Curve, is_share
from trainer.looks.feature_map import FeatureMap

LEGEND = 20
"""Classes or labels that a legend can hold."""
_SIZE = (4.2, 2.4)  # inches: letters stay readable where a phone shows one chart a line


class Figure(NamedTuple):
    """A picture of the page."""

    title: str
    uri: str
    """Its content, `data:…`."""
    alt: str
    """What it shows, for those who cannot see it."""


def data_uri(content: bytes, kind: str) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def line_chart(name: str, lines: Sequence[tuple[str, Curve]], colours: Mapping[str, str]) -> Figure:
    """One value of one or several runs over epochs.

    Args:
        name: of the value.
        lines: the label of each curve with the curve; several may share a label.
        colours: of each label.
    """
    scale = 100 if is_share(name) else 1
    target = io.BytesIO()
    with drawn_into(target, "svg", figsize=_SIZE) as (axes,):
        for label, (epochs, values) in lines:
            few = "o-" if len(values) < 25 else "-"
            scaled = [scale * value for value in values]
            axes.plot(epochs, scaled, few, color=colours[label], lw=1.2, ms=3, alpha=0.9)
        distinct = {scale * value for _, curve in lines for value in curve.values}
        if len(distinct) == 1:  # whose axis would be a hair's breadth
            axes.set_ylim(*sorted((0.0, 2 * distinct.pop() or 1.0)))
        axes.set_xlabel("epochs")
        axes.set_ylabel("%" if scale == 100 else "")
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.25, lw=0.6)
    last = "; ".join(f"{label} ends at {scale * curve.values[-1]:.4g}" for label, curve in lines[:LEGEND])
    return Figure(name, data_uri(target.getvalue(), "svg+xml"), f"{name} over epochs: {last}")


def map_chart(found: FeatureMap) -> Figure:
    """A map of features, coloured by class."""
    from matplotlib import colormaps

    names = found.classes if 0 < len(found.classes) <= LEGEND else ()
    colours = colormaps["tab10" if len(found.classes) <= 10 else "tab20" if names else "turbo"]
    target = io.BytesIO()
    with drawn_into(target, "png", figsize=(7.5, 6), dpi=130) as (axes,):
        unlabelled = found.labels < 0
        axes.scatter(*found.places[unlabelled].T, s=6, color="lightgrey", linewidths=0)
        for label in sorted(set(found.labels[~unlabelled].tolist())):
            colour = colours(label if names else label / max(1, len(found.classes) - 1))
            places = found.places[found.labels == label]
            axes.scatter(*places.T, s=9, color=colour, linewidths=0, label=names[label] if names else None)
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        if names:
            axes.legend(frameon=False, markerscale=2, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    title = f"{found.how} of {len(found.labels)} features of the {found.backbone} backbone, step {found.step}"
    return Figure(title, data_uri(target.getvalue(), "png"), f"{title}, coloured by class")


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label, in their order; they come again where there are very many."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    distinct = list(dict.fromkeys(labels))
    palette = colormaps["tab10" if len(distinct) <= 10 else "tab20"]
    return {label: to_hex(palette(place % palette.N)) for place, label in enumerate(distinct)}
