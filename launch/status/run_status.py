"""`all4one status`: the state of runs, from their folders and from SLURM if it answers. Loads no torch."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from launch.node_check.record import NODE_CHECK, NodeCheck, node_checks
from launch.slurm import slurm_commands
from launch.slurm.submitted_jobs import Submissions
from launch.status.attempt_facts import read_facts
from launch.status.goodput import Goodput, goodput
from launch.status.ledger import AttemptSummary, Hours, global_batch, read_attempts, total
from launch.status.suspect_nodes import suspect_nodes
from trainer.runs.attempt_times import last_recorded
from trainer.runs.best_checkpoint import BestCheckpoint, best_checkpoint
from trainer.runs.end_reasons import EndReason
from trainer.runs.rank_times import RANK_TIMES, STRAGGLER, RankTime, read_rank_times
from trainer.runs.records import (
    Speed,
    count_damaged,
    read_ledger,
    read_speeds,
    read_speeds_and_damage,
)
from trainer.runs.run_folder import RunFolder, runs_below
from trainer.runs.run_lock import is_held

UNFINISHED = "unfinished"
"""State of a run whose job ended well in SLURM's eyes, and whose ledger lacks the end."""

PRUNED = "pruned"
"""State of a run that a search has stopped, because it had fallen behind."""


@dataclass(frozen=True)
class Status:
    """The state of one run."""

    run: str
    state: str
    """SLURM's state of a queued or running job, otherwise how the last attempt ended."""
    job: str | None
    nodes: str | None
    step: int
    """The last recorded step."""
    total_steps: int | None
    images_per_second: float | None
    seconds_left: float | None
    checkpoint_step: int | None
    checkpoint_seconds: float | None
    """Age of the newest checkpoint."""
    best: BestCheckpoint | None
    """The best checkpoint. None: `checkpoint.keep_best` is empty, or no checkpoint was evaluated yet."""
    attempts: int
    why: str | None
    """What the job waits for, or what ended the last attempt."""
    lost_steps: int
    """Number of steps that were repeated, or that are in no checkpoint."""
    hours: Hours
    """Device-hours of all attempts."""
    goodput: Goodput
    """Where the time went."""
    suspects: list[str]
    """Nodes that the failures of the run point at, that were slow, or that a check found bad."""
    ranks: list[RankTime]
    """How long each rank computes by itself. Empty: it is not known yet."""
    node_check: NodeCheck | None
    """The newest check of the nodes of a job. None: there was none."""
    history: list[AttemptSummary]
    """All attempts, oldest first."""


@dataclass(frozen=True)
class Overview:
    """The state of several runs."""

    folder: str
    """The folder that holds them, or the folder of a single run."""
    problem: str | None
    """Why SLURM could not be asked."""
    runs: list[Status]
    left_out: list[str]
    """Folders that cannot be read as runs, each with the reason."""
    damaged: dict[str, int]
    """Number of damaged lines of the files of a single run that have some."""


def overview(path: Path, seconds: float = slurm_commands.ANSWER_SECONDS) -> Overview:
    """Return the state of a run, or of all runs in a folder. `seconds` limits the wait for SLURM's answer.

    Raises:
        UserError: there is no run at `path`, or none can be read.
    """
    runs = runs_at(path)
    chains = [Submissions(run).newest_chain() for run in runs]
    known: Mapping[str, slurm_commands.Job] = {}
    problem = None
    try:
        known = slurm_commands.jobs(chain.from_iterable(chains), seconds)
    except UserError as error:
        problem = f"{error.what.splitlines()[-1]}: showing only what the run folders contain"
    found: list[Status] = []
    damaged: dict[str, int] = {}
    unread: list[UserError] = []
    for run, numbers in zip(runs, chains, strict=True):
        number = slurm_commands.current(numbers, known)
        try:
            if len(runs) == 1:
                speeds, of_metrics = read_speeds_and_damage(run.metrics)
                damaged = {str(run.ledger): count_damaged(run.ledger), str(run.metrics): of_metrics}
            else:
                speeds = read_speeds(run.metrics)
            found.append(status(run, known.get(number or ""), number, speeds))
        except UserError as error:
            unread.append(error)
    if not found:
        raise unread[0]
    left_out = [f"{error.where} {error.what}" for error in unread]
    return Overview(
        str(path), problem, found, left_out, {name: count for name, count in damaged.items() if count}
    )


def runs_at(path: Path) -> list[RunFolder]:
    """Return the run in a folder, or all runs below it, including those of sweeps."""
    runs = [RunFolder(path)] if RunFolder(path).config.is_file() else runs_below(path)
    if not runs:
        raise UserError(
            "there is no run here", where=path, fix="give the folder of a run, or a folder that contains runs"
        )
    return runs


def status(
    run: RunFolder,
    job: slurm_commands.Job | None,
    number: str | None,
    speeds: Sequence[Speed] | None = None,
) -> Status:
    """Return the state of a run.

    Args:
        run: the run.
        job: its newest job as SLURM knows it. None: SLURM does not know it or was not asked.
        number: number of its newest job. None: it was never submitted.
        speeds: what `read_speeds` returns for its metrics. None: they are read.
    """
    speeds = read_speeds(run.metrics) if speeds is None else speeds
    records = read_ledger(run.ledger)
    checkpoint = _newest_checkpoint(run)
    history = read_attempts(run, running=is_held(run.path), saved=checkpoint.get("step", 0), speeds=speeds)
    total_steps = next((r["total_steps"] for r in reversed(records) if r["event"] == "ready"), None)
    last_step, speed = speeds[-1] if speeds else (0, None)
    step = max([last_step, *(r["step"] for r in records[-1:] if "step" in r)])
    state, why = _state(job, history, records)
    if run.pruned.exists() and state in (EndReason.INTERRUPTED, EndReason.CANCELLED):
        state, why = PRUNED, None
    return Status(
        run=str(run.path),
        state=state,
        job=number,
        nodes=(job.nodes if job else history[-1].nodes if history else None) or None,
        step=step,
        total_steps=total_steps,
        images_per_second=speed,
        seconds_left=_seconds_left(run, total_steps, step, speed) if state == "running" else None,
        checkpoint_step=checkpoint.get("step"),
        checkpoint_seconds=time.time() - checkpoint["saved"] if checkpoint else None,
        best=best_checkpoint(run),
        attempts=len(history),
        why=why,
        lost_steps=sum(one.lost for one in history),
        hours=total(history),
        goodput=_goodput(run, records, history, speeds),
        suspects=suspect_nodes(history),
        ranks=read_rank_times(run),
        node_check=next(reversed(node_checks(records)), None),
        history=history,
    )


def _goodput(
    run: RunFolder,
    records: Sequence[Mapping[str, Any]],
    history: Sequence[AttemptSummary],
    speeds: Sequence[Speed],
) -> Goodput:
    facts = read_facts(records, history)
    is_running = bool(history) and history[-1].reason == EndReason.RUNNING
    known = [speed for _, speed in speeds if speed]
    needed = known and not all(one.tells_times for one in facts)
    return goodput(
        facts,
        submissions=Submissions(run).times(),
        ended=time.time() if is_running else last_recorded(run),
        seconds_per_step=global_batch(run) / statistics.median(known) if needed else 0.0,
    )


def _state(
    job: slurm_commands.Job | None, history: Sequence[AttemptSummary], records: Sequence[Mapping[str, Any]]
) -> tuple[str, str | None]:
    if job is not None and not job.over:
        return job.state.lower(), job.why if job.state == "PENDING" else None
    last = history[-1] if history else None
    if last is not None and last.reason == EndReason.RUNNING:
        return EndReason.RUNNING, None
    # the newest record counts: a later start whose processes never connected comes after the attempt's own
    records = [
        r for r in records if r["event"] not in (RANK_TIMES, STRAGGLER, NODE_CHECK)
    ]  # these end nothing
    newest = records[-1] if records else None
    if newest and newest["event"] == "end" and newest["attempt"] == (last.number if last else 0):
        return newest["reason"], newest.get("message")
    if last is None:
        return (_how_it_ended(job) if job else "new"), None
    if last.reason == EndReason.NO_END:
        return (_how_it_ended(job) if job else EndReason.KILLED), last.message
    return last.reason, last.message or None


def _how_it_ended(job: slurm_commands.Job) -> str:
    """SLURM's word for a job that is over. A job that completed has not finished its run: the ledger would say so."""
    return UNFINISHED if job.state == "COMPLETED" else job.state.lower()


def _newest_checkpoint(run: RunFolder) -> dict[str, Any]:
    try:
        name = (run.checkpoints / "latest").read_text().strip()
        state: dict[str, Any] = json.loads((run.checkpoints / name / "state.json").read_text())
        sound = isinstance(state["step"], int) and isinstance(state["saved"], int | float)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return state if sound else {}


def _seconds_left(run: RunFolder, total_steps: int | None, step: int, speed: float | None) -> float | None:
    if not total_steps or not speed:
        return None
    return float((total_steps - step) * global_batch(run) / speed)
