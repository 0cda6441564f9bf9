"""The trials of a search as a table, the best ones first."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.formatting import quoted
from launch.tuning.search import Search
from launch.tuning.trials import Trials
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import is_held

FINISHED, PRUNED, RUNNING, STOPPED, NEW = "finished", "pruned", "running", "stopped", "new"


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    run: str
    """Folder of its run."""
    state: str
    """`finished`, `pruned`, `running`, `stopped` or `new`."""
    value: float | None
    """The last value of the metric. None: there was no evaluation."""
    step: int
    """Step of that evaluation."""
    settings: dict[str, Any]
    """Values of what the search varies. Empty: they are not drawn yet."""


def trial_rows(search: Search) -> list[TrialRow]:
    """Return the trials: finished ones first, by falling value, then those that were pruned, then the others."""
    trials = Trials(search)
    trials.settle()
    settings = trials.settings()
    rows = [_row(search, run, settings.get(number, {})) for number, run in enumerate(search.all_trials)]
    order = [FINISHED, PRUNED, RUNNING, STOPPED, NEW]
    return sorted(rows, key=lambda row: (order.index(row.state), -(row.value or 0.0)))


def show(search: Search, *, as_json: bool) -> None:
    """Print the trials, and the command that trains with the best settings."""
    rows = trial_rows(search)
    if as_json:
        print(json.dumps({"metric": search.asked.metric, "trials": [asdict(row) for row in rows]}, indent=1))
        return
    console = plain_console()
    table = Table("trial", "state", search.asked.metric, "step", "settings")
    for row in rows:
        given = " ".join(f"{key}={_short(value)}" for key, value in row.settings.items())
        value = "" if row.value is None else f"{row.value:.2%}"
        table.add_row(Path(row.run).name, row.state, value, str(row.step or ""), given)
    console.print(table)
    if rows[0].state == FINISHED:
        console.print(f"train with the best settings: {_command(search, rows[0])}", soft_wrap=True)


def _row(search: Search, run: RunFolder, settings: dict[str, Any]) -> TrialRow:
    values = list(search.values(run).items())
    step, value = values[-1] if values else (0, None)
    return TrialRow(str(run.path), _state(run), value, step, settings)


def _state(run: RunFolder) -> str:
    if run.is_finished():
        return FINISHED
    if run.path.exists() and is_held(run.path):
        return RUNNING
    if run.pruned.exists():
        return PRUNED
    return STOPPED if run.attempts() else NEW


def _command(search: Search, best: TrialRow) -> str:
    words: Sequence[str] = [
        *search.asked.overrides,
        *(f"{key}={value}" for key, value in best.settings.items()),
    ]
    return " ".join(["all4one train", *map(quoted, [search.asked.recipe, *words])])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
