"""The output of `all4one status` on a terminal."""

import json
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.formatting import duration, quoted
from launch.status.ledger import AttemptSummary, total
from launch.status.run_status import Overview, Status, overview
from launch.status.suspect_nodes import times_in_failures
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import count_damaged
from trainer.runs.run_folder import RunFolder

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
    console.print(*_tables(found), sep="\n")
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
                live.update(Group(*_tables(found), *_lines(found), Text(footer, style="dim")), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        return


def _tables(found: Overview) -> list[Table]:
    """Return the table of runs. For a single run, also return the table of its attempts."""
    single = found.runs[0].history if len(found.runs) == 1 else []
    return [_runs(found.runs), *([_attempts(single)] if single else [])]


def _lines(found: Overview) -> list[Text]:
    """Return the lines below the tables: reasons, costs, suspect nodes and skipped folders."""
    why = [f"{Path(one.run).name}: {one.why}" for one in found.runs if one.why]
    skipped = [f"skipped: {problem}" for problem in found.left_out]
    if len(found.runs) == 1:
        skipped += _damaged_lines(RunFolder(Path(found.runs[0].run)))
    lines = [
        Text(line) for line in (*why, _costs(found.runs), *map(_of_suspects, found.runs), *skipped) if line
    ]
    return [*lines, Text(found.problem, style="yellow")] if found.problem else lines


def _damaged_lines(run: RunFolder) -> list[str]:
    """Return one line for each file of a run that has damaged lines."""
    counted = {path: count_damaged(path) for path in (run.ledger, run.metrics)}
    return [
        f"skipped: {count} damaged line{'s' * (count > 1)} of {path}"
        for path, count in counted.items()
        if count
    ]


def _runs(runs: list[Status]) -> Table:
    table = _table("run", "state", "job", "nodes", "step", "img/s", "left", "saved", "tries", "lost")
    for one in runs:
        table.add_row(
            Path(one.run).name,
            one.state,
            one.job or "",
            one.nodes or "",
            f"{one.step}/{one.total_steps or '?'}",
            f"{one.images_per_second:.0f}" if one.images_per_second else "",
            duration(one.seconds_left) if one.seconds_left is not None else "",
            f"{duration(one.checkpoint_seconds)} ago" if one.checkpoint_seconds is not None else "none",
            str(one.attempts),
            str(one.lost_steps or ""),
        )
    return table


def _attempts(history: list[AttemptSummary]) -> Table:
    table = _table("try", "start", "end", "nodes", "kept", "redone", "how it ended")
    for one in history:
        table.add_row(
            str(one.number),
            _clock(one.start),
            "" if one.reason == EndReason.RUNNING else _clock(one.end),
            one.nodes,
            str(one.kept),
            str(one.replayed or ""),
            f"{one.reason}: {one.message}" if one.message else one.reason,
        )
    return table


def _table(*columns: str) -> Table:
    """Return a table that wraps its cells, so that nothing is cut off on a narrow terminal."""
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold", min_width=min(len(name), 5))
    return table


def _costs(runs: list[Status]) -> str:
    history = [attempt for one in runs for attempt in one.history]
    if not history:
        return ""
    hours, steps = total(history), sum(one.lost_steps for one in runs)
    lost = f" ({steps} steps)" if steps else ""
    useful, wasted, starting = map(_number, (hours.useful, hours.lost, hours.starting))
    return f"device-hours: {useful} useful, {wasted} lost{lost}, {starting} starting"


def _of_suspects(one: Status) -> str:
    if not one.suspects:
        return ""
    said = "; ".join(times_in_failures(name, one.history) for name in one.suspects)
    command = "submit CONFIG" if one.state == EndReason.FINISHED else f"resume {quoted(one.run)}"
    return f"{Path(one.run).name}: {said}. To exclude it: all4one {command} --exclude-suspects"


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}" if hours < 1 else f"{hours:.1f}"


def _clock(moment: float) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(moment))
