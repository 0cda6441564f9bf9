"""`all4one submit`, and `resume` of a run that was submitted: jobs of SLURM, through submitit."""

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
import yaml

from data_pipelines.errors import UserError
from launch import slurm
from launch.job import TrainJob
from launch.jobs import (
    keep_settings,
    refuse_other_train_set,
    settings_on_resume,
    warn_of_other_world_size,
)
from launch.preflight import problems, refuse
from launch.submissions import Submissions
from launch.user_settings import slurm_defaults
from trainer.config import Config, dump, load_config
from trainer.recipes import find_recipe
from trainer.run import RunFolder, create_run, open_run, run_of
from trainer.slurm_settings import SlurmSettings


def submit(recipe: str, overrides: Sequence[str], *, preflight: bool, dry_run: bool) -> RunFolder | None:
    """Queue a new run. Returns its folder; None where nothing was queued, since it was a dry run.

    Raises:
        UserError: with everything that would stop the run, each with its mend.
    """
    config, name = load_config(recipe, overrides, slurm_defaults()), find_recipe(recipe).stem
    run = run_of(config, name)
    if preflight:
        _refuse_what_fails(run, config)
    if dry_run:
        print(_script(run, config.slurm))
        print("# config.yaml")
        print(yaml.safe_dump(dump(config), sort_keys=False), end="")
        return None
    create_run(config, name)
    try:
        _queue(run, config.slurm)
    except UserError:
        shutil.rmtree(run.path)  # so that the same command can be given again
        raise
    return run


def resume(path: Path, overrides: Sequence[str], *, preflight: bool, dry_run: bool) -> RunFolder | None:
    """Queue a run again, which goes on from its newest whole checkpoint. Returns its folder if it was queued.

    Raises:
        UserError: a job of the run is queued or runs, or something would stop the run.
    """
    run = open_run(path)
    config = settings_on_resume(run, overrides)
    if run.is_finished():
        print(f"{run.path} is finished; judge it by `all4one eval {run.path}`")
        return None
    _refuse_live_job(run)
    if preflight:
        _refuse_what_fails(run, config)
    refuse_other_train_set(run, config)
    warn_of_other_world_size(run, config, config.slurm.ranks)
    if dry_run:
        print(_script(run, config.slurm))
        return None
    keep_settings(run, config)
    _queue(run, config.slurm)
    return run


def _refuse_what_fails(run: RunFolder, config: Config) -> None:
    found = problems(config, config.slurm.ranks)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.sh"
        try:
            script.write_text(_script(run, config.slurm))
        except UserError as error:
            found.append(error)
        else:
            found += filter(None, [slurm.refusal(script)])
    refuse(found)


def _refuse_live_job(run: RunFolder) -> None:
    number = Submissions(run).newest()
    job = slurm.jobs([number]).get(number) if number else None
    if job is not None and not job.over:
        raise UserError(
            f"job {job.number} of this run is {job.state.lower()}", where=run.path,
            fix=f"follow it by `all4one logs {run.path} -f`, or `all4one cancel {run.path}` and wait for its end",
        )  # fmt: skip


def _executor(run: RunFolder, settings: SlurmSettings) -> submitit.SlurmExecutor:
    """submitit's executor with all that the settings ask for."""
    try:
        executor = submitit.SlurmExecutor(Submissions(run).folder, max_num_timeout=settings.max_requeues)
    except RuntimeError:  # it looks for srun
        raise UserError(
            "there is no SLURM on this machine",
            fix="run this on a login node of the cluster, or `all4one train`",
        ) from None
    named: dict[str, Any] = {
        "partition": settings.partition, "account": settings.account, "qos": settings.qos,
        "constraint": settings.constraint, "exclude": settings.exclude, "mem": settings.mem,
        "gpus_per_node": settings.gpus_per_node, "cpus_per_task": settings.cpus_per_task,
    }  # fmt: skip
    # newer versions of srun do not take this from the job
    cores = [f"--cpus-per-task={settings.cpus_per_task}"] if settings.cpus_per_task else []
    end = shlex.join([sys.executable, "-m", "launch.job_end", str(run.path.absolute())])
    executor.update_parameters(
        **{name: value for name, value in named.items() if value},
        job_name=run.path.name, time=settings.minutes, nodes=settings.nodes, ntasks_per_node=settings.tasks,
        signal_delay_s=settings.signal_before, stderr_to_stdout=True,
        additional_parameters={"requeue": True, "signal": f"USR2@{settings.signal_before}", **settings.extra},
        # the signal that submitit listens to is an environment variable's, and the two must be the same
        setup=["export SUBMITIT_PREEMPT_SIGNAL=USR2", *settings.setup],
        srun_args=["--kill-on-bad-exit=1", *cores, *settings.srun_args],
        teardown=["code=$?", f"[ $code -eq 0 ] || {end} $code", "exit $code"],
    )  # fmt: skip
    return executor


def _script(run: RunFolder, settings: SlurmSettings) -> str:
    """The sbatch script that submitit would write; it has no public way to ask for it."""
    executor = _executor(run, settings)
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    return text


def _queue(run: RunFolder, settings: SlurmSettings) -> None:
    run.logs.mkdir(parents=True, exist_ok=True)
    executor = _executor(run, settings)
    try:
        job = executor.submit(TrainJob(run.path.absolute(), settings.max_requeues))
    except (submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
        raise UserError(
            f"SLURM did not take the job: {str(error).strip()}", where=run.path,
            fix="mend it and give the command again",
        ) from None  # fmt: skip
    Submissions(run).note(job.job_id, settings.nodes, settings.tasks)
    print(
        f"job {job.job_id}: processes {settings.ranks}, machines {settings.nodes}\n"
        f"run folder: {run.path}\n"
        f"how it goes: all4one status {run.path}\n"
        f"its output:  all4one logs {run.path} -f\n"
        f"end it:      all4one cancel {run.path}",
        flush=True,
    )
