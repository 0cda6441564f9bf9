"""Device-hours of a study's runs, as `all4one status` counts them."""

import statistics
from collections.abc import Mapping
from dataclasses import astuple

from launch.status.ledger import read_attempts, total
from launch.studies.plan import Cell, Choices
from launch.studies.scores import is_finished
from trainer.runs.run_folder import RunFolder


def hours(run: RunFolder) -> float:
    """Return the device-hours of a run so far."""
    if not run.config.exists():
        return 0.0
    attempts = read_attempts(run, running=False, saved=0)
    return float(sum(astuple(total(attempts))))


def mean_hours(runs: Mapping[Cell, RunFolder], spent: Mapping[Cell, float]) -> dict[Choices, float]:
    """Return the device-hours of one run of each combination of which a run is finished.

    Args:
        runs: the runs.
        spent: `hours` of each of them.
    """
    known: dict[Choices, list[float]] = {}
    for cell, run in runs.items():
        if is_finished(run):
            known.setdefault(cell.choices, []).append(spent[cell])
    return {choices: statistics.fmean(of_seeds) for choices, of_seeds in known.items()}
