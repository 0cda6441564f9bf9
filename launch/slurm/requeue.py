"""Requests for the requeue of a job: from rank 0 while it runs, or from the job's script after the ranks have ended."""

import signal
import subprocess
import time
from collections.abc import Callable

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.log import LOGGER
from launch.slurm import slurm_commands
from trainer.runs.run_folder import RunFolder

GRACE_SECONDS = 30 * 60
"""How long a rank that has saved waits for SLURM to end it, seconds. This is longer than the grace time that clusters
give."""
RETRY_SECONDS = 5.0
"""Time between requests that the controller does not answer, seconds."""
_ASKED_SECONDS = 300.0
"""How long the job's script asks a controller that does not answer, seconds."""


def requeue_from_rank(requeue: Callable[[], None]) -> None:
    """Ask until the controller requeues the job, which ends this process, or until SLURM ends it for its own reason.

    Args:
        requeue: submitit's own request.
    """
    # `scontrol` inherits this setting, so that the requeue does not end `scontrol` itself.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    last = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < last:
        try:
            requeue()
        except (subprocess.SubprocessError, OSError) as error:
            LOGGER.warning("SLURM did not accept the requeue: %s", error)
        time.sleep(RETRY_SECONDS)


def requeue_from_script(job: str, run: RunFolder) -> None:
    """Ask for some minutes until the controller answers. If the job will not start again, log the command to resume."""
    last = time.monotonic() + _ASKED_SECONDS
    while True:
        try:
            slurm_commands.ask("scontrol", "requeue", job)
            return
        except UserError as error:
            if not isinstance(error, slurm_commands.Unanswered) or time.monotonic() > last:
                LOGGER.error(
                    "job %s could not be requeued: %s\n  fix: run all4one resume %s",
                    job,
                    error.what,
                    quoted(run.path),
                )
                return
        time.sleep(RETRY_SECONDS)
