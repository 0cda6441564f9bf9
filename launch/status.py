"""`all4one status`: where runs stand, from their folders and from SLURM where it answers. Loads no torch."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from data_pipelines.errors import UserError
from launch import slurm
from launch.submissions import Submissions
from trainer.run import RunFolder, read_records
from trainer.run_lock import is_held


@dataclass(frozen=True)
class Status:
    """One run as it stands."""

    run: str
    state: str
    """SLURM's word for a job that is queued or runs; else how the last attempt ended."""
    job: str | None
    nodes: str | None
    step: int
    """The last step on record."""
    total_steps: int | None
    images_per_second: float | None
    seconds_left: float | None
    checkpoint_step: int | None
    checkpoint_seconds: float | None
    """Age of the newest checkpoint."""
    attempts: int
    why: str | None
    """What a job waits for, or what ended the last attempt."""


def print_status(path: Path, *, as_json: bool) -> None:
    """Print the state of a run, or of all runs in a folder.

    Raises:
        UserError: there is no run at `path`.
    """
    runs = runs_at(path)
    numbers = {run.path: Submissions(run).newest() for run in runs}
    known: Mapping[str, slurm.Job] = {}
    problem = None
    try:
        known = slurm.jobs(filter(None, numbers.values()))
    except UserError as error:
        problem = f"{error.what.splitlines()[-1]}: this is what the folders say"
    found = [status(run, known.get(numbers[run.path] or ""), numbers[run.path]) for run in runs]
    if as_json:
        print(json.dumps({"problem": problem, "runs": [asdict(one) for one in found]}, indent=1))
    else:
        _print_table(found, problem)


def runs_at(path: Path) -> list[RunFolder]:
    """The run in a folder, or the runs that it holds."""
    folders = (
        [path] if (path / "config.yaml").is_file() else sorted(p.parent for p in path.glob("*/config.yaml"))
    )
    if not folders:
        raise UserError(
            "there is no run here", where=path, fix="give a run's folder, or the one that holds runs"
        )
    return [RunFolder(folder) for folder in folders]


def status(run: RunFolder, job: slurm.Job | None, number: str | None) -> Status:
    """Where a run stands.

    Args:
        run: its folder.
        job: its newest job as SLURM knows it; None: SLURM does not know it or was not asked.
        number: of its newest job; None: it was never submitted.
    """
    records = read_records(run.ledger)
    starts = [r for r in records if r["event"] == "start"]
    trained = [r for r in read_records(run.metrics) if r["kind"] == "train"]
    end = next((r for r in reversed(records) if r["event"] == "end" and _is_of_last(r, starts)), None)
    total = next((r["total_steps"] for r in reversed(records) if r["event"] == "ready"), None)
    step = max([r["step"] for r in (*trained[-1:], end or {}) if "step" in r], default=0)
    speed = trained[-1].get("time", {}).get("images_per_second") if trained else None
    state, why = _state(run, job, starts, end)
    checkpoint = _newest_checkpoint(run)
    return Status(
        run=str(run.path), state=state, job=number,
        nodes=(job.nodes if job else starts[-1].get("nodes") if starts else None) or None,
        step=step, total_steps=total, images_per_second=speed,
        seconds_left=_seconds_left(run, total, step, speed) if state == "running" else None,
        checkpoint_step=checkpoint.get("step"),
        checkpoint_seconds=time.time() - checkpoint["saved"] if checkpoint else None,
        attempts=len(starts), why=why,
    )  # fmt: skip


def _is_of_last(record: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> bool:
    return bool(starts) and record["attempt"] == starts[-1]["attempt"]


def _state(
    run: RunFolder, job: slurm.Job | None, starts: Sequence[Mapping[str, Any]], end: Mapping[str, Any] | None
) -> tuple[str, str | None]:
    if job is not None and not job.over:
        return job.state.lower(), job.why if job.state == "PENDING" else None
    if end is not None:
        return end["reason"], end.get("message")
    if is_held(run.path):
        return "running", None
    if job is not None:
        return job.state.lower(), None
    return ("killed", "it noted no end") if starts else ("new", None)


def _newest_checkpoint(run: RunFolder) -> dict[str, Any]:
    try:
        name = (run.checkpoints / "latest").read_text().strip()
        state: dict[str, Any] = json.loads((run.checkpoints / name / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return state


def _seconds_left(run: RunFolder, total: int | None, step: int, speed: float | None) -> float | None:
    if not total or not speed:
        return None
    batch = yaml.safe_load(run.config.read_text())["train"]["global_batch"]
    return float((total - step) * batch / speed)


def _print_table(found: Sequence[Status], problem: str | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("run", "state", "job", "nodes", "step", "images/s", "left", "saved at step", "tries")
    for one in found:
        table.add_row(
            Path(one.run).name, one.state, one.job or "", one.nodes or "",
            f"{one.step}/{one.total_steps or '?'}",
            f"{one.images_per_second:.0f}" if one.images_per_second else "",
            _duration(one.seconds_left),
            f"{one.checkpoint_step}, {_duration(one.checkpoint_seconds)} ago"
            if one.checkpoint_seconds is not None else "none",
            str(one.attempts),
        )  # fmt: skip
    console = Console()
    console.print(table)
    for one in found:
        if one.why:
            console.print(escape(f"{Path(one.run).name}: {one.why}"), soft_wrap=True, highlight=False)
    if problem:
        console.print(escape(problem), style="yellow", soft_wrap=True, highlight=False)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
