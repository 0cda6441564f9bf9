"""Cancel the waiting jobs of a chain if there is nothing to resume: `python -m launch.slurm.cancel_waiting_jobs RUN`.

Each job of a chain waits for the previous one and resumes the run. If the run has finished, failed by itself or was
cancelled, there is nothing to resume, and the jobs that still wait are cancelled.
"""

import sys
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from launch.slurm import slurm_commands
from launch.slurm.record_failure import is_crash_loop
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.end_reasons import EndReason
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder

_LAST = (EndReason.FINISHED, EndReason.ERROR, EndReason.CANCELLED)
"""Ends of an attempt after which the next job would do nothing, or fail in the same way."""


def main() -> None:
    """Cancel the jobs of this run that have not begun, if there is nothing to resume."""
    run = RunFolder(Path(sys.argv[1]))
    ends = [record["reason"] for record in read_ledger(run.ledger) if record["event"] == "end"]
    if not ends or not (ends[-1] in _LAST or is_crash_loop(run)):
        return
    try:
        jobs = slurm_commands.jobs(Submissions(run).newest_chain())
    except UserError as error:
        LOGGER.error("the waiting jobs of this chain could not be listed: %s", error)
        return
    for number, job in jobs.items():
        if job.state == "PENDING":
            try:
                slurm_commands.cancel(number)
            except UserError as error:
                LOGGER.error("job %s of this chain could not be cancelled: %s", number, error)


if __name__ == "__main__":
    main()
