"""Runs that a SLURM job works on."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.slurm import slurm_commands
from launch.slurm.submitted_jobs import Submissions
from trainer.runs.run_folder import RunFolder


def refuse_live_jobs(folder: Path, runs: Iterable[RunFolder], of: str, results: str) -> None:
    """Raise a UserError if a SLURM job works on one of several runs, or will.

    Args:
        folder: folder of the runs.
        runs: the runs.
        of: what they are part of, such as `this study`.
        results: what prints its results meanwhile, for the message.
    """
    chains = [Submissions(run).newest_chain() for run in runs if run.config.exists()]
    over = {number: job.over for number, job in slurm_commands.jobs(chain.from_iterable(chains)).items()}
    if live := [numbers for numbers in chains if not all(over.get(number, True) for number in numbers)]:
        raise UserError(
            f"SLURM jobs of {len(live)} run{'s' * (len(live) > 1)} of {of} are queued or running",
            where=folder,
            fix=f"see their progress with `all4one status {quoted(folder)}`, end one with "
            f"`all4one cancel RUN`, or print results with {results}",
        )
