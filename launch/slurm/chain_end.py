"""What each job of a chain does last: `python -m launch.slurm.chain_end RUN`.

The jobs of a chain wait for one another and each resumes the run. Where there is nothing left to resume, since the run
is finished or has failed by itself, those that still wait are cancelled.
"""

import sys
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.log import LOGGER
from launch.slurm import controller
from launch.slurm.job_end import is_crash_loop
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.end_reasons import EndReason
from trainer.runs.run_folder import RunFolder, read_records

_LAST = (EndReason.FINISHED, EndReason.ERROR, EndReason.CANCELLED)
"""Ends of an attempt after which the same command would do nothing, or the same again."""


def main() -> None:
    """Cancel the jobs of this run that have not begun, if the chain is at its end."""
    run = RunFolder(Path(sys.argv[1]))
    ends = [record["reason"] for record in read_records(run.ledger) if record["event"] == "end"]
    if not ends or not (ends[-1] in _LAST or is_crash_loop(run)):
        return
    try:
        jobs = controller.jobs(Submissions(run).newest_chain())
    except UserError as error:
        LOGGER.error("the jobs that wait behind this one could not be looked up: %s", error)
        return
    for number, job in jobs.items():
        if job.state == "PENDING":
            try:
                controller.cancel(number)
            except UserError as error:
                LOGGER.error("job %s of this chain could not be cancelled: %s", number, error)


if __name__ == "__main__":
    main()
