"""submitit's executor with the settings of a recipe's `slurm:` section."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

from data_pipelines.errors import UserError
from launch.slurm.containers.container import Container
from launch.slurm.job_start import start_line
from trainer.config.slurm_settings import SlurmSettings

NOT_TAKEN = (submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError)
"""Exceptions that submitit raises if SLURM does not take a job."""
_OUTLIVE = ["--no-kill", "--kill-on-bad-exit=0", "--wait=0"]
"""Options of srun with which the loss of a node or a task ends no other task."""
_SAY_START = f'echo "{start_line("${SLURM_RESTART_COUNT:-0}")}"'


def executor(
    settings: SlurmSettings,
    folder: Path,
    *,
    requeues: int,
    requeue: bool,
    after: str | None = None,
    parallel: int = 1,
    teardown: Sequence[str] = (),
    agents: bool = False,
    container: Container | None = None,
    setup: Sequence[str] = (),
) -> submitit.SlurmExecutor:
    """Return the executor that submits jobs.

    Args:
        settings: resources and options of each job.
        folder: folder in which submitit writes scripts, pickles and SLURM's output. Jobs are named after its parent
            folder.
        requeues: number of restarts that a job may request.
        requeue: whether SLURM may restart a job by itself.
        after: number of a job that must end before.
        parallel: maximum number of array elements that run at a time.
        teardown: shell lines that run after the processes.
        agents: whether each node has one task, which starts the processes of the node.
        container: the container of the processes. None: they run on the node itself.
        setup: shell lines that run before the processes, after those of the user.

    Raises:
        UserError: there is no SLURM on this machine, or the container cannot be started.
    """
    if container is not None:
        container.refuse_unusable()
    try:
        found = submitit.SlurmExecutor(
            folder,
            max_num_timeout=requeues,
            python=f"{shlex.quote(sys.executable)} -P" if container is None else container.python,
        )
    except RuntimeError:  # submitit found no srun
        raise UserError(
            "there is no SLURM on this machine",
            fix="run this on a login node of the cluster, or train on this machine with `all4one train`",
        ) from None
    extra = dict(settings.extra)
    own = extra.pop("dependency", None)  # the user's dependency, for the first job of a chain
    # An agent gets the cores of all its processes, one for each if their number is left to the cluster.
    tasks, cores_of_task = settings.tasks, settings.cpus_per_task
    if agents:
        tasks, cores_of_task = 1, (cores_of_task or 1) * tasks
    has_range = agents and settings.spares > 0
    named: dict[str, Any] = {
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "exclude": settings.exclude,
        "mem": settings.mem,
        "gpus_per_node": settings.gpus_per_node,
        "cpus_per_task": cores_of_task,
        "dependency": f"afterany:{after}" if after else own,
    }
    # Spares are the upper end of a range, so that a job never waits for them. If sbatch knows the number of tasks, it
    # takes no more nodes than the least number has tasks, so that only srun is told.
    one_each = ["--ntasks-per-node=1"] if has_range else []
    # Newer versions of srun do not inherit this from the job.
    cores = [f"--cpus-per-task={cores_of_task}"] if cores_of_task else []
    found.update_parameters(
        **{name: value for name, value in named.items() if value},
        job_name=folder.parent.name,
        time=settings.minutes,
        nodes=settings.nodes,
        **({} if has_range else {"ntasks_per_node": tasks}),
        array_parallelism=parallel,
        signal_delay_s=settings.signal_lead_seconds,
        stderr_to_stdout=True,
        additional_parameters={
            "requeue" if requeue else "no-requeue": True,
            "signal": f"USR2@{settings.signal_lead_seconds}",
            **({"no-kill": True} if agents else {}),
            **({"nodes": f"{settings.nodes}-{settings.nodes + settings.spares}"} if has_range else {}),
            **extra,
        },
        # submitit reads its signal from this environment variable, and it must be the signal above
        # With --export=NONE, srun would start the processes without the environment that these lines make.
        setup=[
            "unset SLURM_EXPORT_ENV",
            "export SUBMITIT_PREEMPT_SIGNAL=USR2",
            _SAY_START,
            *settings.setup,
            *setup,
            *(container.setup if container is not None else []),
        ],
        # Agents outlive the loss of one of them. Ranks wait for a lost one.
        srun_args=[
            *(_OUTLIVE if agents else ["--kill-on-bad-exit=1"]),
            *one_each,
            *cores,
            *(container.srun_args if container is not None else []),
            *settings.srun_args,
        ],
        teardown=list(teardown),
    )
    return found


def script(submitter: submitit.SlurmExecutor, elements: int = 1) -> str:
    """Return the sbatch script of a job, or of an array of `elements` elements. submitit has no public function for
    this."""
    if elements > 1:
        submitter.parameters["map_count"] = elements
    text: str = submitter._make_submission_file_text(submitter._submitit_command_str, "")
    return text


def not_taken(error: Exception, where: Path) -> UserError:
    """Return the error message for one of the exceptions in `NOT_TAKEN`."""
    return UserError(
        f"SLURM did not accept the job: {str(error).strip()}",
        where=where,
        fix="fix the problem and run the command again",
    )
