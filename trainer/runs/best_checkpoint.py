"""The best checkpoint of a run: that of the step with the highest value of `checkpoint.keep_best`. Loads no torch.

No file names it. It follows from the evaluations in metrics.jsonl and from the checkpoints that exist. A kill, a
rollback or a resume at an earlier step therefore leaves nothing behind that could be wrong.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.checkpoints.folder_names import list_checkpoints, step_and_revision
from trainer.checkpoints.keep_rules import best_step
from trainer.runs.records import read_evaluations
from trainer.runs.run_folder import RunFolder

_KEEP_BEST = re.compile(r"^ +keep_best: *['\"]?((?:knn|online_val)_\w+)", re.MULTILINE)


@dataclass(frozen=True)
class BestCheckpoint:
    """The best checkpoint of a run."""

    step: int
    metric: str
    """What was evaluated, as named in metrics.jsonl."""
    value: float


def values_by_step(records: Iterable[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """Return the values of a metric of the evaluations by step, without the evaluation before training.

    Args:
        records: records of metrics.jsonl. Of two evaluations of a step the later one counts.
        metric: name of the metric. Empty: there are no values.
    """
    return {
        record["step"]: record[metric]
        for record in list(records)  # a copy, because another thread may append meanwhile
        if record.get("kind") == "eval" and metric in record and record["step"] > 0
    }


def best_checkpoint(run: RunFolder) -> BestCheckpoint | None:
    """Return the best checkpoint of a run. None: `checkpoint.keep_best` is empty, or no checkpoint was evaluated."""
    metric = kept_metric(run)
    if not metric:
        return None
    values = values_by_step(read_evaluations(run.metrics), metric)
    step = best_step(values, (step_and_revision(path)[0] for path in list_checkpoints(run.checkpoints)))
    return None if step is None else BestCheckpoint(step, metric, values[step])


def kept_metric(run: RunFolder) -> str:
    """Return a run's `checkpoint.keep_best`. Empty: it keeps no best checkpoint, or has no readable configuration."""
    try:
        # `status` of many runs parses no settings, which would take most of its time.
        found = _KEEP_BEST.search(run.config.read_text())
    except (OSError, UnicodeDecodeError):
        return ""
    return found[1] if found else ""
