"""Record why a job failed, after its processes have ended: `python -m launch.slurm.record_failure RUN CODE`.

A rank that was killed or hung cannot record its end. This program records why the processes ended. If the job stalled
or was killed by a signal, such as SIGKILL when memory ran out, it requests a requeue. It requests none if the previous
attempt was also killed or stalled at the same checkpoint.

It ends with the exit code of the job. That of srun also tells of a node that was lost and replaced, although the run
has finished.
"""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from launch.local.memory_kills import ADVICE
from launch.slurm import slurm_commands
from launch.slurm.agent_links import LOST_NODE
from launch.slurm.job_start import Start, start_line
from launch.slurm.requeue import requeue_from_script
from trainer.checkpoints.store import CheckpointStore
from trainer.runs.end_reasons import EndReason, ExitCode
from trainer.runs.hang_watch import stall_of
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder
from trainer.runs.run_lock import living_holder

TRIED_AGAIN = (EndReason.KILLED, EndReason.STALLED)
"""Ends after which a job asks for its requeue."""
_NO_MEMORY = re.compile(r"error: (.*(memory limit|oom.?kill|out of memory).*)", re.IGNORECASE)
_ENDED_BY_SRUN = re.compile(r"srun: error: (\S+): (tasks? \S+: .*)")


def main() -> None:
    """Record the end of this start of the job, and request a requeue if needed. Ends with the code of the job."""
    sys.exit(record_failure(RunFolder(Path(sys.argv[1])), int(sys.argv[2])))


def record_failure(run: RunFolder, code: int, message: str = "") -> int:
    """Record the end of this start of the job, and request a requeue if needed. Returns the exit code of the job.

    Args:
        run: the run.
        code: exit code of the processes, 128 + N if signal N ended one.
        message: why they failed. Empty: it is read from their output.
    """
    start = Start.this()
    if code == 0 or not _still_runs(start):
        return code
    records = read_ledger(run.ledger)
    began = next((r for r in reversed(records) if r["event"] == "start" and _of(r, start)), None)
    ends = [r for r in records if began and r["event"] == "end" and r["attempt"] == began["attempt"]]
    reasons = {r["reason"] for r in ends} - {EndReason.LOST_RANK}
    if reasons:
        return ExitCode.FINISHED if EndReason.FINISHED in reasons else code
    if began is None and (holder := living_holder(run.path)) and holder.job_id != os.environ["SLURM_JOB_ID"]:
        LOGGER.warning(
            "this start of job %s recorded nothing in the ledger, because %s trains the run",
            start.job,
            holder,
        )
        return code
    settings = run.read_config().slurm
    number = began["attempt"] if began else run.attempts()
    # Processes that hung before they had met belong to an attempt that has no record.
    attempt, ranks = (number, began["world_size"]) if began else (number + 1, settings.ranks)
    hung = stall_of(run, attempt, ranks, start.logs(run.path))
    killed = code > 128 and code - 128 in signal.valid_signals()
    reason = EndReason.STALLED if hung else EndReason.KILLED if killed else EndReason.ERROR
    saved = CheckpointStore(run.checkpoints).newest_step()
    said = hung or message or _message(run, start)
    run.note("end", attempt=number, reason=reason, message=said, saved=saved)
    if reason in TRIED_AGAIN and may_requeue(run, start):
        requeue_from_script(start.job, run)
    return code


def may_requeue(run: RunFolder, start: Start) -> bool:
    """Whether a job that was killed or stalled may start again."""
    return start.restart < run.read_config().slurm.requeues and not is_crash_loop(run)


def _of(record: dict[str, Any], start: Start) -> bool:
    return (record.get("job"), record.get("restart")) == (start.job, start.restart)


def _still_runs(start: Start) -> bool:
    """Whether SLURM has not ended this start itself, by a cancellation, a requeue or the loss of a node."""
    try:
        return slurm_commands.facts(start.job)["JobState"] == "RUNNING"
    except UserError:
        return True


def _message(run: RunFolder, start: Start) -> str:
    """Return srun's message on the task that failed by itself, and the last error message of each rank."""
    outputs = sorted((run.path / "slurm").glob(f"{start.job}_0_log.*"))
    own = [
        path.read_text(errors="replace").rpartition(start_line(start.restart) + "\n")[2] for path in outputs
    ]
    lines = [line for text in own for line in text.splitlines()]
    found = [match for line in lines if (match := _ENDED_BY_SRUN.match(line))]
    found.sort(
        key=lambda match: match[2].endswith(f"exit code {ExitCode.LOST_PEER}")
    )  # tasks that only lost a peer come last
    said = [f"{found[0][1]}, {found[0][2]}"] if found else []
    if short := next(filter(None, map(_NO_MEMORY.search, lines)), None):
        said.append(f"memory ran out ({short[1]}): {ADVICE}")
    for log in sorted(start.logs(run.path).glob("rank_*.log")):
        errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("error: ")]
        said += [f"{log.stem}: {line}" for line in errors[-1:]]
    return "; ".join(said) or "see the logs"


def is_crash_loop(run: RunFolder) -> bool:
    """Whether the last two attempts were killed or stalled with the same newest checkpoint.

    The loss of a node is none of the run's own failures.
    """
    ends = [r for r in read_ledger(run.ledger) if r["event"] == "end" and r["reason"] != EndReason.LOST_RANK]
    last = ends[-2:]
    return (
        len(last) == 2
        and all(r["reason"] in TRIED_AGAIN and LOST_NODE not in r.get("message", "") for r in last)
        and last[0].get("saved") == last[1].get("saved")
    )


if __name__ == "__main__":
    main()
