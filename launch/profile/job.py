"""The job that SLURM runs as each task of a profile."""

from pathlib import Path

from launch.local.worker import run_with_error_report
from launch.profile.worker import measure
from launch.slurm.rank_of_job import begin_task
from trainer.runs.run_folder import RunFolder


class ProfileJob:
    """A profile as submitit pickles it.

    Args:
        folder: contains `config.yaml`, on a file system that all nodes share. The result and logs are written there.
        steps: number of steps to measure of each kind.
        trace: whether to also write a torch.profiler trace of one step.
    """

    def __init__(self, folder: Path, steps: int, *, trace: bool) -> None:
        self.folder, self.steps, self.trace = folder, steps, trace

    def __call__(self) -> None:
        """Measure as the rank that the environment names."""
        run = RunFolder(self.folder)
        begin_task(run.logs)
        run_with_error_report(lambda: measure(run, self.steps, trace=self.trace))
