"""What is handed to SLURM, through submitit: one job, a job array, or a chain of jobs."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from data_pipelines.errors import UserError
from launch.job import TrainJob
from launch.submissions import Submissions
from trainer.run import RunFolder
from trainer.slurm_settings import SlurmSettings

_FAILURES = (submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError)


@dataclass(frozen=True)
class Batch:
    """Runs that are queued together: one, or the elements of a job array.

    Args:
        runs: in the order of the array.
        settings: what each job asks for.
        folder: where submitit writes scripts, pickles and what SLURM says.
        parallel: elements of an array that run at a time, at most.
    """

    runs: Sequence[RunFolder]
    settings: SlurmSettings
    folder: Path
    parallel: int = 256

    @classmethod
    def of(cls, run: RunFolder, settings: SlurmSettings) -> "Batch":
        """One run by itself."""
        return cls([run], settings, Submissions(run).folder)

    def script(self) -> str:
        """The sbatch script that submitit would write; it has no public way to ask for it.

        Raises:
            UserError: there is no SLURM on this machine.
        """
        executor = self._executor()
        if len(self.runs) > 1:
            executor.parameters["map_count"] = len(self.runs)
        text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
        return text

    def queue(self) -> list[str]:
        """Submit, note the jobs in the folders of their runs, and return their numbers.

        Raises:
            UserError: SLURM does not take them; nothing is queued then.
        """
        for run in self.runs:
            run.logs.mkdir(parents=True, exist_ok=True)
        work = [
            TrainJob(run.path.absolute(), self.settings.requeues, chained=self.settings.chain > 1)
            for run in self.runs
        ]
        queued: list[str] = []
        try:
            while len(queued) < self.settings.chain:
                executor = self._executor(after=queued[-1] if queued else None)
                if len(work) > 1:
                    with executor.batch():
                        jobs = [executor.submit(one) for one in work]
                else:
                    jobs = [executor.submit(work[0])]
                queued += [job.job_id for job in jobs]
        except _FAILURES as error:
            for number in queued:
                subprocess.run(["scancel", number], check=False)
            raise UserError(
                f"SLURM did not take the job: {str(error).strip()}", where=self.folder.parent,
                fix="mend it and give the command again",
            ) from None  # fmt: skip
        self._note(queued)
        return queued

    def _note(self, queued: Sequence[str]) -> None:
        nodes, tasks = self.settings.nodes, self.settings.tasks
        if len(self.runs) == 1:
            Submissions(self.runs[0]).note(queued, nodes, tasks)
            return
        for run, number in zip(self.runs, queued, strict=True):
            submissions = Submissions(run)
            submissions.note([number], nodes, tasks)
            output = f"{number}_0_log.out"  # what SLURM says of a run is found in its folder
            (submissions.folder / output).symlink_to(
                os.path.relpath(self.folder / output, submissions.folder)
            )

    def _executor(self, after: str | None = None) -> submitit.SlurmExecutor:
        """submitit's executor with all that the settings ask for."""
        settings = self.settings
        try:
            executor = submitit.SlurmExecutor(self.folder, max_num_timeout=settings.requeues)
        except RuntimeError:  # it looks for srun
            raise UserError(
                "there is no SLURM on this machine",
                fix="run this on a login node of the cluster, or `all4one train`",
            ) from None
        named: dict[str, Any] = {
            "partition": settings.partition, "account": settings.account, "qos": settings.qos,
            "constraint": settings.constraint, "exclude": settings.exclude, "mem": settings.mem,
            "gpus_per_node": settings.gpus_per_node, "cpus_per_task": settings.cpus_per_task,
            "dependency": f"afterany:{after}" if after else None,
        }  # fmt: skip
        # newer versions of srun do not take this from the job
        cores = [f"--cpus-per-task={settings.cpus_per_task}"] if settings.cpus_per_task else []
        again = "no-requeue" if settings.chain > 1 else "requeue"
        executor.update_parameters(
            **{name: value for name, value in named.items() if value},
            job_name=self.folder.parent.name, time=settings.minutes, nodes=settings.nodes,
            ntasks_per_node=settings.tasks, array_parallelism=self.parallel,
            signal_delay_s=settings.signal_before, stderr_to_stdout=True,
            additional_parameters={again: True, "signal": f"USR2@{settings.signal_before}", **settings.extra},
            # the signal that submitit listens to is an environment variable's, and the two must be the same
            setup=["export SUBMITIT_PREEMPT_SIGNAL=USR2", *settings.setup],
            srun_args=["--kill-on-bad-exit=1", *cores, *settings.srun_args],
            teardown=self._teardown(),
        )  # fmt: skip
        return executor

    def _teardown(self) -> list[str]:
        """Shell lines after the processes: each element of an array ends its own run."""
        runs = " ".join(shlex.quote(str(run.path.absolute())) for run in self.runs)
        python, run = shlex.quote(sys.executable), '"${runs[${SLURM_ARRAY_TASK_ID:-0}]}"'
        lines = ["code=$?", f"runs=({runs})", f"[ $code -eq 0 ] || {python} -m launch.job_end {run} $code"]
        if self.settings.chain > 1:
            lines.append(f"{python} -m launch.chain_end {run}")
        return [*lines, "exit $code"]
