"""The figure of a profile: the time of each part of a step, and its timeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.figures import drawn
from trainer.profiling.bench import STEP
from trainer.profiling.instruments import PARTS


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the content of `profile.json` as a PNG."""
    from matplotlib import colormaps

    names = [name for name in PARTS if found["parts"].get(name, 0) > 0]
    colors = {name: colormaps["tab20"](place) for place, name in enumerate(PARTS)}
    with drawn(path, 2, 1, figsize=(10, 6), height_ratios=(3, 2)) as (bars, line):
        values = [1000 * found["parts"][name] for name in names]
        bars.barh(names, values, color=[colors[name] for name in names])
        for row, value in enumerate(values):
            bars.text(value, row, f" {value:.1f} ms", va="center", fontsize=8)
        bars.invert_yaxis()
        bars.margins(x=0.12)
        bars.set_title(
            f"a step of {1000 * found['step']:.1f} ms: {found['images_per_second']:.0f} images/s, "
            f"bound by {found['verdict']['bound']}"
        )
        _timeline(line, found["spans"], colors)


def _timeline(axes: Any, spans: list[tuple[str, float, float]], colors: dict[str, Any]) -> None:
    """Draw the spans of the last step."""
    first, last = [(start, end) for name, start, end in spans if name == STEP][-1]
    depth: list[float] = []
    for name, start, end in spans:
        while depth and depth[-1] <= start:
            depth.pop()
        if name != STEP and start >= first and end <= last:
            axes.barh(
                len(depth), 1000 * (end - start), left=1000 * (start - first), color=colors[name], height=0.9
            )
        depth.append(end)
    axes.set_xlabel("ms; lower bars lie inside the bars above")
    axes.set_yticks([])
    axes.invert_yaxis()


def plot_scaling(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the content of `scaling.json` as a PNG: throughput against ideal scaling, and efficiency."""
    nodes = [p["nodes"] for p in points]
    speed = [p["images_per_second"] for p in points]
    with drawn(path, 1, 2, figsize=(10, 4)) as (left, right):
        left.plot(nodes, speed, "o-", label="measured")
        left.plot(nodes, [speed[0] * n / nodes[0] for n in nodes], ":", color="gray", label="ideal")
        left.set(ylabel="images/s", ylim=(0, None))
        left.legend(frameon=False)
        right.bar([str(n) for n in nodes], [100 * p["efficiency"] for p in points], width=0.5)
        for place, point in enumerate(points):
            right.text(
                place,
                100 * point["efficiency"],
                f"{100 * point['efficiency']:.0f} %",
                ha="center",
                va="bottom",
            )
        right.set(ylabel="images/s of each process, % of the smallest node count", ylim=(0, 115))
        left.set_xticks(nodes)
        for axes in (left, right):
            axes.set_xlabel("machines")
