"""The output of `all4one plan`."""

import json
import math
from collections.abc import Iterator

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.formatting import amount, duration, percent
from launch.plan.outcome import Outcome
from launch.plan.plan_run import Plan

_NAMES = {
    "nodes": "nodes",
    "spares": "spare nodes",
    "mtbf_seconds": "MTBF of a node",
    "rank_failures": "failures of a rank only",
    "step_seconds": "step",
    "evaluation_seconds": "evaluations, per step",
    "save_seconds": "steps wait for a save",
    "write_seconds": "write of a checkpoint",
    "in_place_seconds": "restart in the job",
    "start_seconds": "start of a job",
    "queue_seconds": "wait in the queue",
    "detection_seconds": "until a lost node is noticed",
    "first_detection_seconds": "the same for the first node",
    "release_seconds": "from a lost rank to the requeue",
    "steps": "steps of the run",
    "every_steps": "steps between checkpoints",
    "copies_every": "steps between copies for neighbors",
    "time_limit_seconds": "time limit of the job",
}
_LEAST_SHOWN = 0.00005
"""Fraction of the device-time that is written as 0.01 %. Smaller ones are left out."""
_SHOWN, _APART = 8.0, 1.5
"""Intervals are shown up to this factor from the best one, and at least this factor from each other."""


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan, as tables or as JSON."""
    if as_json:
        print(json.dumps(plan.as_json(), indent=1, allow_nan=False))
        return
    console = plain_console()
    for table in (numbers(plan), expectation(plan.expected), intervals(plan), spares(plan)):
        console.print(table)
    for line in advice(plan):
        console.print(line, soft_wrap=True)


def numbers(plan: Plan) -> Table:
    """Return the numbers of a plan with their sources."""
    table = _table("what is assumed", "", "value", "from")
    for name, shown in _NAMES.items():
        if (one := plan.sources.get(name)) is None:
            continue
        source = f"estimate: {one.source}" if one.is_estimate else one.source
        table.add_row(shown, _value(name, one.value), source)
    if plan.assumptions.recovers_in_place and plan.assumptions.nodes > 1:
        least = f"{plan.assumptions.least_nodes:,}"
        table.add_row("fewest nodes before a requeue", least, "slurm.shrink, train.global_batch and the loss")
    return table


def expectation(expected: Outcome) -> Table:
    """Return where the allocated device-time goes."""
    table = _table("expected", "", "of the allocated device-time")
    table.add_row("goodput", f"{percent(expected.goodput)} ± {percent(expected.interval)}")
    for cause, fraction in expected.fractions.items():
        if fraction >= _LEAST_SHOWN and cause != "useful":
            table.add_row(cause, percent(fraction))
    return table


def intervals(plan: Plan) -> Table:
    """Return the goodput of checkpoint intervals: the best one, those around it, and those of the recipe and Young."""
    now, found = plan.assumptions.every_steps, plan.interval
    tried = found.tried | {now: plan.expected}
    named = (("now", now), ("best", found.best), ("sqrt(2 x save x MTBF)", found.young))
    marks = {steps: ", ".join(name for name, other in named if other == steps) for _, steps in named}
    shown: list[int] = []
    for steps in sorted(tried):
        is_near = found.best / _SHOWN <= steps <= found.best * _SHOWN
        if steps in marks or (is_near and (not shown or steps >= _APART * shown[-1])):
            shown.append(steps)
    table = _table("checkpoints", "checkpoint.every_steps", "time between", "goodput", "")
    for steps in shown:
        between = duration(steps * plan.assumptions.pace) if steps else "none"
        table.add_row(str(steps), between, percent(tried[steps].goodput), marks.get(steps, ""))
    return table


def spares(plan: Plan) -> Table:
    """Return what each number of spare nodes brings."""
    table = _table("spare nodes", "spares", "goodput", "requeues", "whole run takes", "")
    for count, one in plan.spares.items():
        marks = ["now"] * (count == plan.assumptions.spares) + ["best"] * (count == plan.spares_that_pay)
        requeues = f"{one.requeues:.1f}" if one.requeues < math.inf else "no end"
        row = (str(count), percent(one.goodput), requeues, _long(one.elapsed_seconds))
        table.add_row(*row, ", ".join(marks))
    return table


def advice(plan: Plan) -> Iterator[str]:
    """Return what follows from a plan, one sentence a line."""
    a, expected, found = plan.assumptions, plan.expected, plan.interval
    if math.isinf(expected.elapsed_seconds):
        yield "The run makes no progress: it fails before it reaches a checkpoint."
    else:
        yield _in_numbers(expected)
    gain = found.tried[found.best].goodput - expected.goodput
    if found.young is None:
        yield "No failure goes back to a checkpoint, so their interval hardly matters."
    elif gain > expected.interval:
        yield f"Set checkpoint.every_steps={found.best}. It brings {_points(gain)}."
    else:
        yield "The checkpoint interval of the recipe is good."
    yield _of_spares(plan)
    if a.least_nodes < a.nodes:
        yield (
            "Without a spare, the run goes on with fewer nodes until a requeue gives it all again. With one node less, "
            f"its steps are assumed to take {a.nodes}/{a.nodes - 1} times as long, and so on."
        )
    if 0.5 <= expected.stops < math.inf:
        yield (
            f"About {amount(round(expected.stops), 'time', 'times')} the run stops because the same checkpoint fails "
            "repeatedly. It waits for `all4one resume` then, and this time is not counted."
        )
    if estimated := [_NAMES[name] for name, one in plan.sources.items() if one.is_estimate]:
        yield f"Estimates, not measured here: {', '.join(estimated)}. Use --from-run or their options."
    if not a.survivors_save and a.recovers_in_place:
        yield (
            "Ranks that are left save nothing at ZeRO stages 1 and 2 with checkpoint.replicate_every=0. A restart "
            "redoes steps."
        )


def _in_numbers(expected: Outcome) -> str:
    return (
        f"Expected goodput: {percent(expected.goodput)} ± {percent(expected.interval)}, with "
        f"{expected.failures:.1f} failures and {expected.requeues:.1f} requeues. The run takes "
        f"{_long(expected.elapsed_seconds)}."
    )


def _of_spares(plan: Plan) -> str:
    best, none = plan.spares[plan.spares_that_pay], plan.spares[min(plan.spares)]
    if not plan.assumptions.recovers_in_place:
        return "Spare nodes do not pay: with slurm.recovery=requeue nothing uses them."
    if plan.spares_that_pay:
        nodes = amount(plan.spares_that_pay, "spare node pays", "spare nodes pay")
        return f"{nodes}: {_points(best.goodput - none.goodput)} more goodput than without."
    times = " and ".join(f"{_long(plan.spares[count].elapsed_seconds)} with {count}" for count in (0, 1))
    return f"No spare node pays in device-time: an idle node costs more than it saves. The run takes {times}."


def _points(difference: float) -> str:
    return f"{100 * difference:.2f} percentage points"


def _value(name: str, value: float) -> str:
    if name == "rank_failures":
        return percent(value)
    if name == "mtbf_seconds" and value >= 7200:
        return f"{value / 3600:,.0f} h"
    if not name.endswith("_seconds"):
        return f"{value:,.0f}"
    return _long(value)


def _long(seconds: float) -> str:
    """Return a time with enough digits: `0.068 s`, `25 s`, `500 h`. `status` rounds short times to seconds."""
    if math.isinf(seconds):
        return "no end"
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.1f} d"
    return f"{seconds:.3g} s" if seconds < 120 else duration(seconds)


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, box=None, title=title, title_justify="left")
