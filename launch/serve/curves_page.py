"""The curves of one or several runs, as JSON for the charts of the page."""

import math
from collections.abc import Mapping
from typing import Any

from launch.report.curves import ORDER, Curve, grouped, tau_at
from launch.report.facts import RunFacts
from launch.report.gaps import in_one_line, missing
from launch.report.metrics import TAU, axis_limits, describe, is_count, is_percent
from launch.serve.damage import unless_damaged
from launch.serve.metric_series import Series, Update

_DIGITS = 7
"""Significant digits of a value. A chart shows fewer."""


def curves_page(updates: Mapping[str, Update], several: Mapping[str, RunFacts]) -> dict[str, Any]:
    """Return new points of runs. If all points of all runs are given, also the charts that show them.

    Args:
        updates: the points of each run by its id.
        several: facts of the runs, by the same ids. Empty: they are not read yet.
    """
    updates = {run: _with_tau(update, several.get(run)) for run, update in updates.items()}
    page: dict[str, Any] = {
        "runs": {
            run: {
                "cursor": update.cursor,
                "whole": update.whole,
                "series": {name: _rounded(series) for name, series in update.series.items()},
            }
            for run, update in updates.items()
        }
    }
    if all(update.whole for update in updates.values()):
        page["groups"] = _groups(updates, several)
    return page


def _with_tau(update: Update, facts: RunFacts | None) -> Update:
    """Add the momentum of the EMA encoder, which is not recorded, at the steps of the learning rate."""
    if facts is None or (lr := update.series.get("lr")) is None:
        return update
    taus = unless_damaged(lambda: tau_at(facts, lr.steps), [])
    if not taus or not all(map(math.isfinite, taus)):
        return update
    return update._replace(series=update.series | {TAU: lr._replace(values=taus)})


def _groups(updates: Mapping[str, Update], several: Mapping[str, RunFacts]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for update in updates.values() for name in update.series))
    # Settings of an earlier version lack some of these.
    gaps = unless_damaged(lambda: list(missing(list(several.values()), names)) if several else [], [])
    groups, found = grouped(names), []
    for title in ORDER:
        lines, charts, flat = [line for group, line in gaps if group == title], [], {}
        for name in groups.get(title, ()):
            drawn = [
                (run, Curve(update.series[name].epochs, update.series[name].values))
                for run, update in updates.items()
                if name in update.series and update.series[name].values
            ]
            if not drawn:
                continue
            if line := in_one_line(name, drawn):
                lines.append(line)
                values = {value for _, curve in drawn for value in curve.values}
                flat[name] = values.pop() if len(values) == 1 and len(drawn[0][1].values) > 1 else None
            else:
                charts.append(_chart(name, [value for _, curve in drawn for value in curve.values]))
        if lines or charts:
            found.append({"title": title, "lines": lines, "charts": charts, "flat": flat})
    return found


def _chart(name: str, values: list[float]) -> dict[str, Any]:
    metric = describe(name)
    return {
        "name": name,
        "label": metric.label,
        "meaning": metric.meaning,
        "percent": is_percent(name),
        "count": is_count(name),
        "limits": axis_limits(name, values),  # percent if `percent`
    }


def _rounded(series: Series) -> dict[str, list[float]]:
    return {
        "steps": list(series.steps),
        "epochs": [float(f"{epoch:.{_DIGITS}g}") for epoch in series.epochs],
        "values": [float(f"{value:.{_DIGITS}g}") for value in series.values],
    }
