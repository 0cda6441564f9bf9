"""The program that SLURM runs as each task of a job: a rank that saves on a signal, and whose job requests its requeue.

Light to import: signals are caught before torch is loaded.

SIGUSR2 comes before a time limit. If the cluster is configured so, it also comes before a preemption. All ranks then
save together, and rank 0 requests the requeue. SIGTERM comes from `scancel` and from SLURM's own requeue and
preemption. All ranks then save, and none requests a requeue. SIGINT comes from `all4one cancel`. All ranks then save,
and rank 0 cancels the job, whichever other signals came too. A preempted job that ended by itself would not start
again, so its ranks wait until SLURM ends them.
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
from data_pipelines.formatting import quoted
from data_pipelines.log import LOGGER
from launch.local.standard_files import open_log, write_output_to
from launch.local.worker import run_with_error_report, train_run
from launch.slurm import slurm_commands
from launch.slurm.requeue import GRACE_SECONDS, requeue_from_rank
from launch.slurm.submitted_jobs import Submissions
from trainer.distributed.rendezvous import MEETING
from trainer.runs.end_reasons import REASONS, EndReason, ExitCode
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import STALE_AFTER_S
from trainer.runs.stop_signals import StopRequest

DECIDED = (EndReason.REQUEUED, EndReason.CANCELLED)
"""Reasons for which SLURM has already ended the job. Its ranks end at once and release the nodes. Nothing is lost."""
ANSWER_SECONDS = 3.0
"""How long SLURM may take to give the reason of a signal, seconds. It kills the job's processes soon after."""


@dataclass(frozen=True)
class Start:
    """One start of a job by SLURM, which may restart it."""

    job: str
    restart: int

    @classmethod
    def this(cls) -> "Start":
        """Return the start of this process. The number of an array's element is the array's number and its own."""
        job = os.environ["SLURM_JOB_ID"]
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        return cls(job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))

    def logs(self, run: Path) -> Path:
        """Return the folder of this start's output in a run's folder, with one file for each rank."""
        return run / "logs" / f"slurm_{self.job}_{self.restart}"


def start_line(restart: int | str) -> str:
    """Return the first line that a job's script prints at each start. SLURM appends the output of all starts to one
    file."""
    return f"all4one: start {restart} of this job"


class TrainJob:
    """Training of a run, as a callable that submitit pickles.

    Args:
        run: the run's folder, on a file system that all nodes share.
        max_requeues: number of restarts after which the job requests no more.
        chained: whether another job may resume the run after this one.
    """

    def __init__(self, run: Path, max_requeues: int, *, chained: bool = False) -> None:
        self.run, self.max_requeues, self.chained = run, max_requeues, chained

    def __call__(self) -> None:
        """Train as the rank that the environment names, and end in the way that SLURM needs."""
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit has just installed its handler
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
                    self.run,
                    stop,
                    lock_wait_s=STALE_AFTER_S + 15,
                    reason=partial(_reason, start, self.run),
                    **facts,
                )
            )
            if end.reason == EndReason.CANCELLED:
                if rank == 0:
                    self._cancel_if_asked(start)
                if end.code != ExitCode.TERMINATED:  # otherwise SLURM is ending the job already
                    _wait_to_be_ended()
            elif end.code == ExitCode.TIME_IS_UP and start.restart >= self.max_requeues:
                self._say_used_up(start)
            elif end.code in (ExitCode.TIME_IS_UP, ExitCode.TERMINATED) and end.reason not in DECIDED:
                if end.code == ExitCode.TIME_IS_UP and rank == 0 and stop.received != ExitCode.TERMINATED:
                    requeue_from_rank(lambda: requeue(signal.SIGUSR2, None))
                _wait_to_be_ended()
            if end.code:
                raise SystemExit(end.code)

    def _cancel_if_asked(self, start: Start) -> None:
        """Cancel this job if `all4one cancel` has asked for it. If SLURM has cancelled it, there is nothing to do."""
        if _is_cancelled(start, self.run):
            try:
                slurm_commands.cancel(start.job)
            except UserError as error:
                LOGGER.error("job %s could not be cancelled: %s", start.job, error.what)

    def _say_used_up(self, start: Start) -> None:
        if self.chained:
            said = (
                "the time limit is near. The next job of the chain resumes the run. After the last job, run:"
            )
        else:
            said = (
                f"the time limit is near, and SLURM has restarted the job {start.restart} times, the maximum of "
                "slurm.max_requeues. Resume the run with:"
            )
        LOGGER.warning("%s all4one resume %s", said, quoted(self.run))

    def checkpoint(self) -> DelayedSubmission | None:
        """Return the job to requeue, which is this one, or None if it must not restart. Submitit calls this when it
        requeues."""
        if Start.this().restart >= self.max_requeues:
            return None
        return DelayedSubmission(self)


def begin_task(logs: Path) -> int:
    """Set up this process as its SLURM rank: set its environment and write its output to a file in `logs`. Returns the
    rank."""
    task = submitit.JobEnvironment()
    task.paths.result_pickle.unlink(missing_ok=True)  # that of an earlier start would pass for this one's
    rank: int = task.global_rank
    log = logs / f"rank_{rank}.log"
    LOGGER.info("output goes to %s", log)
    write_output_to(open_log(log))  # SLURM would append all starts of a job to one file
    TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
    start = Start.this()
    os.environ[MEETING] = f"{start.job}.{start.restart}"
    if len(os.environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1:
        os.environ["LOCAL_RANK"] = "0"  # if a task sees only one GPU, its number is 0
    return rank


def _reason(start: Start, run: Path, code: int) -> str:
    """Return the reason in the ledger for an exit code. SLURM is asked why the signal came."""
    # The signal before a time limit may come together with the one of `all4one cancel`, and has the higher code.
    if code != ExitCode.FINISHED and _is_cancelled(start, run):
        return EndReason.CANCELLED
    if code not in (ExitCode.TIME_IS_UP, ExitCode.TERMINATED):
        return REASONS[code]
    try:
        facts = slurm_commands.facts(start.job, seconds=ANSWER_SECONDS)
    except UserError:
        return REASONS[code]
    if facts["JobState"] != "RUNNING":
        return EndReason.REQUEUED if int(facts["Restarts"]) > start.restart else EndReason.CANCELLED
    return REASONS[code] if facts.get("PreemptTime", "None") == "None" else EndReason.PREEMPTED


def _is_cancelled(start: Start, run: Path) -> bool:
    return Submissions(RunFolder(run)).is_cancelled(start.job)


def _wait_to_be_ended() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(GRACE_SECONDS)
