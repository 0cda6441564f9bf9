"""Searches whose trials end as a test says, without training."""

import json
from pathlib import Path
from typing import Any

from launch.tuning.search import Asked, Search
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import append_record
from trainer.runs.run_folder import RunFolder

SPACE = ("optim.lr=0.1..3.0",)


def search_in(folder: Path, **values: Any) -> Search:
    """A search for the best learning rate."""
    asked: dict[str, Any] = {
        "recipe": "digits_demo",
        "overrides": (),
        "space": SPACE,
        "metric": "knn_online",
        "sampler": "tpe",
        "prune": False,
        "seed": 0,
        "trials": 8,
    }
    return Search.begin(folder, Asked(**{**asked, **values}))


def evaluate(run: RunFolder, step: int, value: float) -> None:
    """Write an evaluation as a run does."""
    run.path.mkdir(parents=True, exist_ok=True)
    append_record(run.metrics, {"kind": "eval", "step": step, "knn_online": value})


def finish(run: RunFolder, *values: float) -> None:
    """End a run with these evaluations."""
    for number, value in enumerate(values, start=1):
        evaluate(run, 10 * number, value)
    run.note("start", attempt=1, world_size=1)
    run.note("end", attempt=1, reason=EndReason.FINISHED)


def prune(run: RunFolder, step: int, value: float) -> None:
    """End a run as the watcher of a search does."""
    evaluate(run, step, value)
    run.pruned.write_text(json.dumps({"step": step, "knn_online": value}))
