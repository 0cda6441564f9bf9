"""Submission to SLURM through submitit: one job, a job array, or a chain of jobs."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit

from data_pipelines.errors import UserError
from launch.local.rank_processes import module_command
from launch.slurm.containers.container import Container, runtime_warning
from launch.slurm.containers.mounts import container_of
from launch.slurm.job import TrainJob
from launch.slurm.queueing import JobsQueuedTogether
from launch.slurm.submission_environment import submission_environment
from launch.slurm.submitit_executor import NOT_TAKEN, executor, not_taken, script
from launch.slurm.submitted_jobs import Submissions
from trainer.config.schema import Config
from trainer.config.slurm_settings import SlurmSettings
from trainer.runs.run_folder import RunFolder

_BY_TASK = {"--gpus-per-task", "--tres-per-task", "--ntasks", "-n", "--ntasks-per-gpu", "--ntasks-per-socket"}
"""Options of sbatch and srun that give resources to each task, or set the number of tasks."""
NOTHING_TO_DO = 99
"""Exit code of a module that runs before the processes of a job, if these need not start."""
_RUN = '"${runs[${SLURM_ARRAY_TASK_ID:-0}]}"'
"""Shell word for the run of a job."""


@dataclass(frozen=True)
class SlurmSubmission:
    """Runs that are queued together: one run, or the elements of a job array.

    Args:
        runs: the runs, in the order of the array.
        settings: resources and options of each job.
        folder: folder in which submitit writes scripts, pickles and SLURM's output.
        parallel: maximum number of array elements that run at a time.
        then: module with its arguments. After its processes ended without an error, each job runs it on its first node
            with its run's folder.
        tells_end: whether each job tells people how its run has ended.
        container: the container of the processes. None: they run on the nodes themselves.
        before: module. Each start of a job runs it on its first node with its run's folder, before the processes.
            Its code `NOTHING_TO_DO` ends the job without an error, and any other one above 0 with this code.
        beside: module that runs on the first node beside the processes, with the run's folder and 0.
    """

    runs: Sequence[RunFolder]
    settings: SlurmSettings
    folder: Path
    parallel: int = 256
    then: str | None = None
    tells_end: bool = False
    container: Container | None = None
    before: str | None = None
    beside: str | None = None

    @classmethod
    def of(cls, run: RunFolder, config: Config) -> "SlurmSubmission":
        """Return the submission of a single run."""
        return cls(
            [run],
            config.slurm,
            Submissions(run).folder,
            tells_end=bool(config.notify.to),
            container=container_of([config], run.path),
        )

    def script(self) -> str:
        """Return the sbatch script that submitit would write.

        Raises:
            UserError: there is no SLURM on this machine, or the job has no agents, which its settings need.
        """
        return script(self._executor(), len(self.runs))

    def queue(self) -> list[str]:
        """Submit the jobs, record them in the folders of their runs, and return their numbers.

        Raises:
            JobsLeftQueued: SLURM neither took all jobs nor cancelled those that it had taken.
            UserError: SLURM does not take the jobs. After this and any other exception, Ctrl-C included, nothing is
                queued.
        """
        warnings = (cpu_warning(self.settings), agents_warning(self.settings), runtime_warning(self.settings))
        for warning in warnings:
            if warning:
                print(f"warning: {warning}", file=sys.stderr)
        for run in self.runs:
            run.logs.mkdir(parents=True, exist_ok=True)
        work = [
            TrainJob(
                run.path.absolute(),
                self.settings.requeues,
                chained=self.settings.chain > 1,
                tasks=self.settings.tasks if self._has_agents else 0,
                nodes=self.settings.nodes,
            )
            for run in self.runs
        ]
        with submission_environment(self.script()), JobsQueuedTogether() as queued:
            while len(queued.numbers) < self.settings.chain:
                queued.add(self._submit(work, after=queued.numbers[-1] if queued.numbers else None))
            self._note(queued.numbers)
        return queued.numbers

    def _submit(self, work: Sequence[TrainJob], after: str | None) -> list[str]:
        """Submit one job, or one job array, and return the numbers."""
        submitter = self._executor(after=after)
        try:
            if len(work) == 1:
                return [submitter.submit(work[0]).job_id]
            with submitter.batch():
                jobs = [submitter.submit(one) for one in work]
        except NOT_TAKEN as error:
            raise not_taken(error, self.folder.parent) from None
        return [job.job_id for job in jobs]

    def _note(self, queued: Sequence[str]) -> None:
        by_run = [queued] if len(self.runs) == 1 else [[number] for number in queued]
        for run, numbers in zip(self.runs, by_run, strict=True):
            submissions = Submissions(run)
            submissions.note(numbers, self.settings.nodes, self.settings.tasks)
            if submissions.folder.resolve() == self.folder.resolve():
                continue
            for number in numbers:  # SLURM's output for a run must be in its folder
                output = f"{number}_0_log.out"
                (submissions.folder / output).symlink_to(
                    os.path.relpath(self.folder / output, submissions.folder)
                )

    def _executor(self, after: str | None = None) -> submitit.SlurmExecutor:
        if self.settings.spares and not self._has_agents:
            raise UserError(
                f"slurm.spares={self.settings.spares} needs an agent on each node, and this job has none",
                fix=agents_warning(self.settings) or "set slurm.recovery=in_place, or slurm.spares=0",
            )
        if self.settings.check_nodes and not self._has_agents:
            raise UserError(
                "slurm.check_nodes=true needs an agent on each node, and this job has none",
                fix=agents_warning(self.settings)
                or "set slurm.recovery=in_place, or leave slurm.check_nodes out",
            )
        return executor(
            self.settings,
            self.folder,
            requeues=self.settings.requeues,
            requeue=self.settings.chain == 1,
            after=after,
            parallel=self.parallel,
            teardown=self._teardown(),
            agents=self._has_agents,
            container=self.container,
            setup=self._setup(),
        )

    @property
    def _has_agents(self) -> bool:
        """Whether an agent on each node starts its ranks."""
        return self.settings.recovery == "in_place" and not _counted_by_task(self.settings)

    @property
    def _name_runs(self) -> str:
        """Shell line that lists the runs. Each element of an array handles its own one, which is `_RUN`."""
        return f"runs=({' '.join(shlex.quote(str(run.path.absolute())) for run in self.runs)})"

    def _setup(self) -> list[str]:
        """Return the shell lines that run before the processes."""
        lines = [self._name_runs] if self.before or self.beside else []
        if self.before is not None:
            lines += [
                f"{shlex.join(module_command(self.before))} {_RUN}",
                f"code=$?; [ $code -ne {NOTHING_TO_DO} ] || exit 0; [ $code -eq 0 ] || exit $code",
            ]
        if self.beside is not None:
            lines.append(f"{shlex.join(module_command(self.beside))} {_RUN} 0 &")
        return lines

    def _teardown(self) -> list[str]:
        """Return the shell lines that run after the processes."""
        record = shlex.join(module_command("launch.slurm.record_failure"))
        lines = [
            "code=$?",
            *(self.container.teardown if self.container is not None else []),
            self._name_runs,
            f"[ $code -eq 0 ] || {{ {record} {_RUN} $code; code=$?; }}",
        ]
        if self.then is not None:
            then = shlex.join(module_command(*self.then.split()))
            if self.container is not None:
                then = self.container.on_first_node(self.then)
            lines.append(f"[ $code -ne 0 ] || {then} {_RUN} || code=$?")
        if self.settings.chain > 1:
            lines.append(f"{shlex.join(module_command('launch.slurm.cancel_waiting_jobs'))} {_RUN}")
        if self.tells_end:
            lines.append(f"{shlex.join(module_command('launch.slurm.end_notice'))} {_RUN} $code")
        return [*lines, "exit $code"]


def agents_warning(settings: SlurmSettings) -> str:
    """Return a warning for a job that cannot have agents, though its settings ask for them. Empty if it can."""
    named = _counted_by_task(settings)
    if settings.recovery != "in_place" or not named:
        return ""
    return (
        f"{', '.join(named)} gives resources to each task, and an agent is the only task of its node. Each rank is "
        "therefore a task of its own, and the loss of a rank restarts the job. To recover in place, give the resources "
        "by node: slurm.gpus_per_node, slurm.tasks_per_node, slurm.cpus_per_task"
    )


def _counted_by_task(settings: SlurmSettings) -> list[str]:
    """Return the user's options that give resources to each task."""
    given = [f"--{name.replace('_', '-')}" for name in settings.extra]
    given += [argument.split("=")[0] for argument in settings.srun_args]
    return sorted({option for option in given if option in _BY_TASK})


def cpu_warning(settings: SlurmSettings) -> str:
    """Return a warning for a GPU job that leaves the number of cores to the cluster. Empty if it does not."""
    if not settings.gpus_per_node or settings.cpus_per_task:
        return ""
    return (
        "slurm.cpus_per_task is not set. Most clusters then give each process one core, too few to feed a GPU. "
        "Set it, for example with --cpus-per-task 8"
    )
