"""Tables and text of the report, as rows of strings."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.formatting import percent
from launch.node_check.record import node_checks as read_node_checks
from launch.report.facts import RunFacts, differences_between, differences_from_base
from launch.report.headline import KeyFigure, key_figures
from launch.status.goodput import Cause
from trainer.evaluation.measures.intervals import wilson_interval
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import read_ledger

CAUSES = {
    Cause.USEFUL: "steps that count",
    Cause.REDONE: "steps that were repeated, or that are in no checkpoint",
    Cause.STARTING: "until the first finished step of an attempt",
    Cause.EVALUATING: "evaluations during training",
    Cause.SAVING: "steps waited for saves",
    Cause.DEAD: "until a failure was noticed, or a job gave back its nodes",
    Cause.SPARE: "nodes waited for use, or were lost",
    Cause.QUEUED: "the job waited for nodes",
    Cause.IDLE: "there was neither a process nor a job",
    Cause.UNKNOWN: "the records do not tell",
}
"""What each cause means, in the order of the page."""


class Table(NamedTuple):
    """Rows under a header. Every cell is plain text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


_FIGURES = {
    "top1": "top-1",
    "top5": "top-5",
    "map": "mAP",
    "recall_at_1": "recall@1",
    "mean_corruption_error": "mean corruption error",
    "clean_error": "clean error",
}
"""Figures of a result in eval.json that the report shows, with their names there."""


def results(facts: RunFacts) -> Table:
    """Return the results of `all4one eval`."""
    rows = []
    for backbone, evaluated in facts.backbones.items():
        for evaluator, result in evaluated.items():
            values = [f"{name} {percent(result[key])}" for key, name in _FIGURES.items() if key in result]
            rows.append([evaluator, backbone, ", ".join(values), _interval(result, facts)])
    return Table(("evaluator", "backbone", "result", "95 % interval, or standard deviation"), rows)


def evaluated_of(facts: RunFacts) -> str:
    """Describe the checkpoint and the dataset of the results."""
    if facts.evaluated is None:
        return ""
    checkpoint = Path(facts.evaluated["checkpoint"]).name
    return (
        f"Results of {checkpoint} on {facts.evaluated['images']:,} images of {facts.evaluated['validation']}. "
        "The backbone is frozen, except for finetune. Higher is better, except for errors."
    )


def attempts(facts: RunFacts) -> Table:
    """Return every attempt in the ledger, and how it ended."""
    rows = [
        [
            str(one.number),
            _clock(one.start),
            "" if one.reason == EndReason.RUNNING else _clock(one.end),
            one.nodes,
            str(one.devices),
            f"{one.kept:,}",
            f"{one.lost:,}",
            f"{one.hours.useful:.3g}",
            f"{one.hours.lost + one.hours.starting:.3g}",
            one.how_it_ended,
        ]
        for one in facts.status.history
    ]
    header = (
        "attempt",
        "start",
        "end",
        "nodes",
        "devices",
        "steps kept",
        "steps lost",
        "useful hours",
        "other hours",
        "how it ended",
    )
    return Table(header, rows)


def goodput(facts: RunFacts) -> Table:
    """Return where the time of the run went. A cause without time is left out."""
    found = facts.status.goodput
    allocated = found.allocated_device_seconds
    rows = []
    for cause, meaning in CAUSES.items():
        seconds, devices = found.seconds[cause], found.device_seconds[cause]
        if seconds is None or devices is None:
            rows.append([cause, "unknown", "unknown", "", meaning])
        elif seconds:
            fraction = f"{100 * devices / allocated:.1f} %" if devices else ""
            rows.append([cause, f"{seconds / 3600:.3g}", f"{devices / 3600:.3g}", fraction, meaning])
    return Table(("cause", "hours", "device-hours", "of all device-hours", "meaning"), rows)


def ranks(facts: RunFacts) -> Table:
    """Return how long each rank computes by itself. Empty: there is one rank, or nothing has recorded it."""
    found = facts.status.ranks
    rows = [
        [str(one.rank), one.node, f"{one.milliseconds:.1f}", f"{100 * one.slower:+.0f} %"]
        for one in (found if len(found) > 1 else ())
    ]
    return Table(("rank", "node", "milliseconds of a step", "relative to the median"), rows)


def node_checks(facts: RunFacts) -> Table:
    """Return what each check of the nodes of a job has found. Empty: there was none."""
    found = read_node_checks(read_ledger(facts.run.ledger))
    rows = [[str(one.attempt), *one.lines()[:1], ". ".join(one.lines()[1:])] for one in found]
    return Table(("before attempt", "check", "faults"), rows)


def settings(facts: RunFacts) -> Table:
    """Return the settings that differ from the base recipe."""
    rows = [[key, shown(before), shown(value)] for key, before, value in differences_from_base(facts.config)]
    return Table(("setting", "base recipe", "this run"), rows)


def versions(facts: RunFacts) -> Table:
    """Return the package versions."""
    return Table(("package", "version"), [[name, value] for name, value in facts.versions.items()])


def side_by_side(several: Sequence[RunFacts]) -> Table:
    """Return a row of key figures for each run. A missing value stays empty."""
    each = [{figure.name: _in_a_cell(figure) for figure in key_figures(facts)} for facts in several]
    header = list(dict.fromkeys(name for figures in each for name in figures))
    rows = [
        [facts.name, facts.config.method.name, *(figures.get(name, "") for name in header)]
        for facts, figures in zip(several, each, strict=True)
    ]
    return Table(("run", "method", *header), rows)


def other_settings(several: Sequence[RunFacts]) -> Table:
    """Return the settings that differ between runs, with a column for each run."""
    from trainer.config.schema import dump

    return differing({facts.name: dump(facts.config) for facts in several})


def differing(several: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the settings that differ between runs, given the nested settings of each run by its name."""
    rows = [[key, *map(shown, values)] for key, values in differences_between(list(several.values()))]
    return Table(("setting", *several), rows)


def shown(value: Any) -> str:
    """Format a setting's value as YAML in one line."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {shown(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _interval(result: dict[str, Any], facts: RunFacts) -> str:
    if "top1_std" in result:
        return f"{percent(result['top1_std'])} over {len(result['subsets'])} subsets"
    if "top1" not in result or facts.evaluated is None:
        return ""
    low, high = wilson_interval(result["top1"], facts.evaluated["images"])
    return f"{percent(low)} to {percent(high)}"


def _in_a_cell(figure: KeyFigure) -> str:
    return f"{figure.value} ({figure.when})" if figure.when else figure.value


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
