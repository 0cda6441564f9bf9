"""What a rank of a SLURM job does."""

import os
from datetime import datetime
from functools import partial
from pathlib import Path

import submitit
from submitit.helpers import TorchDistributedEnvironment

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from launch.local.process_name import name_of_rank, name_process
from launch.local.standard_files import open_log, write_output_to
from launch.local.worker import End, train_run
from launch.slurm import slurm_commands
from launch.slurm.job_start import Start
from launch.slurm.submitted_jobs import Submissions
from trainer.distributed.rendezvous import MEETING
from trainer.runs.end_reasons import REASONS, EndReason, ExitCode
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import STALE_AFTER_S
from trainer.runs.stop_signals import StopRequest

NODES = "ALL4ONE_NODES"
"""Environment variable with the host names of the nodes that have ranks, where there are agents."""
SPARE_DEVICES = "ALL4ONE_SPARE_DEVICES"
"""Environment variable with the number of devices of nodes without ranks, where there are agents."""
ANSWER_SECONDS = 3.0
"""How long SLURM may take to give the reason of a signal, seconds. It kills the job's processes soon after."""


def begin_task(logs: Path) -> int:
    """Set up this process as its SLURM rank: set its environment and write its output to a file in `logs`. Returns the
    rank."""
    task = submitit.JobEnvironment()
    task.paths.result_pickle.unlink(missing_ok=True)  # that of an earlier start would pass for this one's
    rank: int = task.global_rank
    name_process(name_of_rank(rank))
    log = logs / f"rank_{rank}.log"
    LOGGER.info("output goes to %s", log)
    write_output_to(open_log(log))  # SLURM would append all starts of a job to one file
    TorchDistributedEnvironment().export(overwrite=True, set_cuda_visible_devices=False)
    start = Start.this()
    os.environ[MEETING] = f"{start.job}.{start.restart}"
    if len(os.environ.get("CUDA_VISIBLE_DEVICES", ",").split(",")) == 1:
        os.environ["LOCAL_RANK"] = "0"  # if a task sees only one GPU, its number is 0
    return rank


def train_as_rank(run: Path, stop: StopRequest) -> End:
    """Train a run as one rank of this start of the job."""
    start = Start.this()
    return train_run(
        run,
        stop,
        lock_wait_s=STALE_AFTER_S + 15,
        reason=partial(_reason, start, run),
        job=start.job,
        restart=start.restart,
        nodes=os.environ.get(NODES) or os.environ.get("SLURM_JOB_NODELIST", ""),
        spare_devices=int(os.environ.get(SPARE_DEVICES, "0")),
        **(queue_times(start) if os.environ["RANK"] == "0" else {}),
    )


def _reason(start: Start, run: Path, code: int) -> str:
    """Return the reason in the ledger for an exit code. SLURM is asked why the signal came."""
    # The signal before a time limit may come together with the one of `all4one cancel`, and has the higher code.
    if code != ExitCode.FINISHED and is_cancelled(start, run):
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


def queue_times(start: Start) -> dict[str, float | None]:
    """Return when this start of a job was queued and when it got its nodes, as `submitted` and `allocated`, in seconds
    since 1970. None: SLURM does not answer, or in another format."""
    try:
        facts = slurm_commands.facts(start.job, seconds=ANSWER_SECONDS)
    except UserError:
        facts = {}
    # A requeue sets the time of submission anew.
    return {"submitted": _seconds(facts.get("SubmitTime")), "allocated": _seconds(facts.get("StartTime"))}


def _seconds(clock: str | None) -> float | None:
    try:
        return datetime.fromisoformat(clock or "").timestamp()
    except ValueError:
        return None


def is_cancelled(start: Start, run: Path) -> bool:
    """Return whether `all4one cancel` has asked for the end of a job."""
    return Submissions(RunFolder(run)).is_cancelled(start.job)
