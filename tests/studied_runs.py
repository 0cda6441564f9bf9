"""A small study and runs of it that are only records, so that tests of studies need no training."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.studies.plan import Cell, Study
from launch.studies.study_report import report
from launch.studies.study_runs import StudyRuns
from trainer.runs.run_folder import create_run

CLOSE, CLEAR = {"better": "a", "than": "b"}, {"better": "a", "than": "c"}
GRID: dict[str, Any] = {"method": {"a": {}, "b": {"optim": {"lr": 1.0}}, "c": {"optim": {"lr": 2.0}}}}
SETS = ["data.train=here/train", "data.validation=here/validation"]
OTHER_SETS = ["data.train=/there/train", "data.validation=/there/validation"]


def study(**changed: Any) -> Study:
    """A sequential study with a claim that is hard to decide and one that is easy."""
    values = {"description": "a", "recipe": "digits_demo", "grid": GRID, "compare": "method"}
    return Study.model_validate({**values, "claims": [CLOSE, CLEAR], "device_hours": 100, **changed})


def finish(runs: StudyRuns, cell: Cell, score: float, seconds: float = 3600, **sets: str) -> None:
    """Write the records of a run that has taken so long, with a training set of such a fingerprint."""
    run = create_run(runs.configs[cell], cell.name)
    ledger = [
        {"event": "start", "time": 1000.0, "attempt": 1, "world_size": 1},
        {"event": "ready", "time": 1010.0, "attempt": 1, "step": 0, "total_steps": 9, **sets},
        {"event": "end", "time": 1000 + seconds, "attempt": 1, "reason": "finished", "step": 9},
    ]
    run.ledger.write_text("".join(json.dumps(record) + "\n" for record in ledger))
    run.metrics.write_text(json.dumps({"kind": "eval", "step": 9, "knn_online": score / 100}) + "\n")


def score_of(cell: Cell) -> float:
    """A score whose noise is the same for each run: `a` is a little better than `b`, and much better than `c`."""
    mean = {"a": 60.0, "b": 59.0, "c": 40.0}[dict(cell.choices)["method"]]
    return mean + random.Random(cell.name).gauss(0, 0.5)


def sit(
    asked: Study,
    folder: Path,
    results: list[Path],
    most: int,
    settings: list[str] = SETS,
    **sets: str,
) -> list[str]:
    """Train at most so many runs in a folder, one after the other, and report. Return their names."""
    runs, trained = StudyRuns(asked, folder, settings, None, results), list[str]()
    while len(trained) < most and (cells := runs.next_cells()):
        finish(runs, cells[0], score_of(cells[0]), 3600 + 100 * cells[0].seed, **sets)
        trained.append(cells[0].name)
    report(runs)
    return trained


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return found


def changed_report(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the report of a folder again with a change."""
    found = report_of(folder)
    change(found)
    path = folder / name
    path.write_text(json.dumps(found))
    return path
