"""Device-hours of a study's runs, as `all4one status` counts them."""

import statistics
from collections.abc import Mapping
from dataclasses import astuple

from launch.status.ledger import read_attempts, total
from launch.studies.plan import Cell, Choices
from trainer.runs.run_folder import RunFolder


def hours(run: RunFolder) -> float:
    """Return the device-hours of a run so far."""
    if not run.config.exists():
        return 0.0
    attempts = read_attempts(run, running=False, saved=0)
    return float(sum(astuple(total(attempts))))


def mean_hours(finished: Mapping[Cell, float]) -> dict[Choices, float]:
    """Return the device-hours of one run of each combination, from those of the finished runs."""
    known: dict[Choices, list[float]] = {}
    for cell, spent in finished.items():
        known.setdefault(cell.choices, []).append(spent)
    return {choices: statistics.fmean(of_seeds) for choices, of_seeds in known.items()}
