"""What SLURM runs as each task of a job: a rank that saves when it is told to, and whose job asks for its requeue.

Light to import: signals are caught before torch is loaded.

SIGUSR2 comes before a time limit, and before a preemption where the cluster is set so: all ranks save together and
rank 0 asks for the requeue. SIGTERM comes from `scancel` and from SLURM's own requeue and preemption: all save, and
nobody asks. A preempted job that ended by itself would not be started again, so its ranks wait to be ended.
"""

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from launch.local.worker import run_with_error_report, train_run
from launch.slurm import controller
from launch.slurm.requeue import GRACE_SECONDS, requeue_from_rank
from trainer.runs.end_reasons import REASONS, EndReason, ExitCode
from trainer.runs.run_lock import STALE_AFTER_S
from trainer.runs.stop_signals import StopRequest

DECIDED = (EndReason.REQUEUED, EndReason.CANCELLED)
"""Reasons for which SLURM has ended the job already: its machines are given back at once, and nothing is lost."""
ANSWER_SECONDS = 3.0
"""How long SLURM may take to say why a signal came: it kills its processes soon after."""


@dataclass(frozen=True)
class Start:
    """One start of a job by SLURM, which may start it again."""

    job: str
    restart: int

    @classmethod
    def this(cls) -> "Start":
        """The one that this process belongs to; an element of an array has the array's number and its own."""
        job = os.environ["SLURM_JOB_ID"]
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        return cls(job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))

    def logs(self, run: Path) -> Path:
        """Folder of this start's output in a run's folder, a file for each rank."""
        return run / "logs" / f"slurm_{self.job}_{self.restart}"


def start_line(restart: int | str) -> str:
    """What a job's script prints first at each of its starts: SLURM appends the output of all of them to one file."""
    return f"all4one: start {restart} of this job"


class TrainJob:
    """A run's training as submitit pickles it.

    Args:
        run: the run's folder, on a file system that all machines share.
        max_requeues: restarts after which the job asks for no more.
        chained: another job may go on with the run after this one.
    """

    def __init__(self, run: Path, max_requeues: int, *, chained: bool = False) -> None:
        self.run, self.max_requeues, self.chained = run, max_requeues, chained

    def __call__(self) -> None:
        """Train as the rank that the environment names, and end as SLURM needs it."""
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit has put its own there just before
        assert callable(requeue)
        with StopRequest() as stop:
            start = Start.this()
            rank = begin_task(start.logs(self.run))
            facts: dict[str, Any] = {
                "job": start.job,
                "restart": start.restart,
                "nodes": os.environ.get("SLURM_JOB_NODELIST", ""),
            }
            end = run_with_error_report(
                lambda: train_run(
                    self.run, stop, lock_wait_s=STALE_AFTER_S + 15, reason=partial(_reason, start), **facts
                )
            )
            if end.code == ExitCode.TIME_IS_UP and start.restart >= self.max_requeues:
                self._say_used_up(start)
            elif end.code in (ExitCode.TIME_IS_UP, ExitCode.TERMINATED) and end.reason not in DECIDED:
                if end.code == ExitCode.TIME_IS_UP and rank == 0 and stop.received != ExitCode.TERMINATED:
                    requeue_from_rank(lambda: requeue(signal.SIGUSR2, None))
                _wait_to_be_ended()
            if end.code:
                raise SystemExit(end.code)

    def _say_used_up(self, start: Start) -> None:
        if self.chained:
            said = "the time is up: the next job of the chain goes on; after the last one"
        else:
            said = (
                f"the time is up and the job was started {start.restart} times again, as often as slurm.max_requeues "
                "allows; go on with it:"
            )
        LOGGER.warning("%s all4one resume %s", said, self.run)

    def checkpoint(self) -> DelayedSubmission | None:
        """The job as it shall start again: the same; None where it shall not. Submitit calls it in its requeue."""
        if Start.this().restart >= self.max_requeues:
            return None
        return DelayedSubmission(self)


def begin_task(logs: Path) -> int:
    """Take this process for the rank that SLURM made it: its environment, and its output in a file of a folder."""
    task = submitit.JobEnvironment()
    task.paths.result_pickle.unlink(missing_ok=True)  # an earlier start's would pass for this one's
    rank: int = task.global_rank
    _write_to(logs / f"rank_{rank}.log")
    TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
    if len(os.environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1:
        os.environ["LOCAL_RANK"] = "0"  # a task that sees one GPU knows it by that number
    return rank


def _reason(start: Start, code: int) -> str:
    """The ledger's word for an exit code: why the signal came, as far as SLURM says."""
    if code not in (ExitCode.TIME_IS_UP, ExitCode.TERMINATED):
        return REASONS[code]
    try:
        facts = controller.facts(start.job, seconds=ANSWER_SECONDS)
    except UserError:
        return REASONS[code]
    if facts["JobState"] != "RUNNING":
        return EndReason.REQUEUED if int(facts["Restarts"]) > start.restart else EndReason.CANCELLED
    return REASONS[code] if facts.get("PreemptTime", "None") == "None" else EndReason.PREEMPTED


def _wait_to_be_ended() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(GRACE_SECONDS)


def _write_to(log: Path) -> None:
    """Send what this process prints to a file of its own: SLURM appends all starts of a job to one."""
    LOGGER.info("output goes to %s", log)
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
