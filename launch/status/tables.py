"""The output of `all4one status` on a terminal."""

import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.formatting import duration, percent, quoted
from launch.status.goodput import NOT_ALLOCATED, Cause, Goodput, together
from launch.status.ledger import AttemptSummary
from launch.status.run_status import Overview, Status, overview
from launch.status.suspect_nodes import times_in_failures
from launch.table_columns import Columns
from trainer.runs.end_reasons import EndReason

ANSWER_SECONDS = 5.0
"""Seconds to wait for SLURM's answer with --watch."""


def print_status(path: Path, *, as_json: bool) -> None:
    """Print the state of a run, or of all runs in a folder.

    Raises:
        UserError: there is no run at `path`.
    """
    found = overview(path)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        show(found)


def show(found: Overview) -> None:
    """Print the state of runs."""
    console = plain_console()
    for table, note in _tables(found, console):
        console.print(table)
        if note:
            console.print(note, soft_wrap=True)
    for line in _lines(found):
        console.print(line, soft_wrap=True)  # unwrapped, so that a command can be copied


def watch(path: Path, interval: float) -> None:
    """Refresh the state of a run, or of all runs in a folder, every `interval` seconds until Ctrl-C.

    Raises:
        UserError: there is no run at `path`, or the output is not a terminal.
    """
    console = plain_console()
    if not console.is_terminal:
        raise UserError(
            "--watch needs a terminal, but the output is not one", fix="leave --watch out, or use --json"
        )
    try:
        with Live(Text("asking SLURM"), console=console, auto_refresh=False) as live:
            while True:
                found = overview(path, seconds=ANSWER_SECONDS)
                footer = f"{time.strftime('%H:%M:%S')}, refreshed every {interval:g} s, stop with Ctrl-C"
                shown: list[Table | str] = []
                for table, note in _tables(found, console):
                    shown += [table, note] if note else [table]
                live.update(Group(*shown, *_lines(found), Text(footer, style="dim")), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        return


def _tables(found: Overview, console: Console) -> list[tuple[Table, str]]:
    """Return the table of runs and, for a single run, the table of its attempts. Each comes with a note below it."""
    single = found.runs[0].history if len(found.runs) == 1 else []
    columns = [_runs(found), *([_attempts(single)] if single else [])]
    return [table.fitted(console) for table in columns]


def _lines(found: Overview) -> list[Text]:
    """Return the lines below the tables: reasons, best checkpoints, costs, suspect nodes and skipped folders."""
    why = [f"{_name(one, found)}: {one.why}" for one in found.runs if one.why]
    skipped = [f"skipped: {problem}" for problem in found.left_out]
    skipped += [
        f"skipped: {count} damaged line{'s' * (count > 1)} of {path}" for path, count in found.damaged.items()
    ]
    best = [_of_best(one, found) for one in found.runs]
    suspects = [_of_suspects(one, found) for one in found.runs]
    slow = [_of_ranks(one, found) for one in found.runs]
    checks = [line for one in found.runs for line in _of_check(one, found)]
    shown = (*why, *best, _costs(found.runs), *checks, *slow, *suspects, *skipped)
    lines = [Text(line) for line in shown if line]
    return [*lines, Text(found.problem, style="yellow")] if found.problem else lines


def _name(one: Status, found: Overview) -> str:
    """Return the name of a run within the folder, such as `SWEEP/RUN`."""
    path, folder = Path(one.run), Path(found.folder)
    return str(path.relative_to(folder)) if path != folder else path.resolve().name


def _runs(found: Overview) -> Columns:
    rows = [
        {
            "run": _name(one, found),
            "state": one.state,
            "job": one.job or "",
            "nodes": one.nodes or "",
            "step": f"{one.step}/{one.total_steps or '?'}",
            "img/s": f"{one.images_per_second:.0f}" if one.images_per_second else "",
            "left": duration(one.seconds_left) if one.seconds_left is not None else "",
            "saved": f"{duration(one.checkpoint_seconds)} ago"
            if one.checkpoint_seconds is not None
            else "none",
            "tries": str(one.attempts),
            "lost": str(one.lost_steps or ""),
        }
        for one in found.runs
    ]
    return Columns(rows, spare=("nodes", "lost", "tries", "saved", "job", "img/s"))


def _attempts(history: list[AttemptSummary]) -> Columns:
    rows = [
        {
            "try": str(one.number),
            "start": _clock(one.start),
            "end": "" if one.reason == EndReason.RUNNING else _clock(one.end),
            "nodes": one.nodes,
            "kept": str(one.kept),
            "redone": str(one.replayed or ""),
            "how it ended": one.how_it_ended,
        }
        for one in history
    ]
    return Columns(rows, spare=("nodes", "redone", "end"), wrapped="how it ended")


def _costs(runs: list[Status]) -> str:
    history = [attempt for one in runs for attempt in one.history]
    if not history:
        return ""
    return goodput_line(together([one.goodput for one in runs]), sum(one.lost_steps for one in runs))


def goodput_line(found: Goodput, lost_steps: int) -> str:
    """Return in one line where the device-time went. Causes without time are left out."""
    steps = f" ({lost_steps} steps)" if lost_steps else ""
    named = {
        Cause.REDONE: f"redone{steps}",
        Cause.STARTING: "starting",
        Cause.EVALUATING: "evaluating",
        Cause.SAVING: "saving",
        Cause.DEAD: "dead",
        Cause.SPARE: "spare",
        Cause.UNKNOWN: "unknown",
    }
    parts = [
        f"{_number(seconds / 3600)} {name}"
        for cause, name in named.items()
        if (seconds := found.device_seconds[cause]) is not None
        and (seconds >= 1 or (cause is Cause.REDONE and lost_steps))
    ]
    waits = [
        f"{duration(seconds)} {cause}"
        for cause in NOT_ALLOCATED
        if (seconds := found.seconds[cause]) is not None and seconds >= 1
    ]
    allocated = _number(found.allocated_device_seconds / 3600)
    useful = "unknown" if found.fraction is None else f"{100 * found.fraction:.1f} %"
    without = f". Without devices: {', '.join(waits)}" if waits else ""
    return f"goodput: {useful} of {allocated} device-hours" + "".join(f", {part}" for part in parts) + without


def _of_best(one: Status, found: Overview) -> str:
    if one.best is None:
        return ""
    return f"{_name(one, found)}: best checkpoint at step {one.best.step}, {one.best.metric} {percent(one.best.value)}"


def _of_check(one: Status, found: Overview) -> list[str]:
    """Return what the newest check of the nodes has found. Of several runs, only faults are shown."""
    if one.node_check is None:
        return []
    first, *faults = one.node_check.lines()
    lines = faults if len(found.runs) > 1 else [first, *faults]
    return [f"{_name(one, found)}: {line}" for line in lines]


def _of_ranks(one: Status, found: Overview) -> str:
    """Return how evenly the ranks compute, with the slowest one."""
    if len(one.ranks) < 2:
        return ""
    median = statistics.median_low(rank.milliseconds for rank in one.ranks)
    slowest = max(one.ranks, key=lambda rank: rank.slower)
    return (
        f"{_name(one, found)}: own compute time of a step is {median:.0f} ms at the median, and "
        f"{100 * slowest.slower:.0f} % more on the slowest rank, {slowest.rank} on {slowest.node}"
    )


def _of_suspects(one: Status, found: Overview) -> str:
    if not one.suspects:
        return ""
    said = "; ".join(times_in_failures(name, one.history) for name in one.suspects)
    command = "submit CONFIG" if one.state == EndReason.FINISHED else f"resume {quoted(one.run)}"
    return f"{_name(one, found)}: {said}. To exclude it: all4one {command} --exclude-suspects"


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}" if hours < 1 else f"{hours:.1f}"


def _clock(moment: float) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(moment))
