"""`all4one submit`, and `all4one resume` of submitted runs: SLURM jobs through submitit."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from data_pipelines.masking import masked_values
from data_pipelines.yaml_writer import dump_yaml
from launch.local.preflight import problems, refuse
from launch.local.runs import (
    keep_settings,
    next_command,
    refuse_other_train_set,
    require_checkpoints,
    settings_on_resume,
    warn_of_other_world_size,
)
from launch.local.taken_state import FirstState
from launch.slurm import slurm_commands
from launch.slurm.containers.mounts import container_of
from launch.slurm.queueing import JobsLeftQueued
from launch.slurm.submission import SlurmSubmission
from launch.slurm.submission_environment import submission_environment
from launch.slurm.submitted_jobs import Submissions
from launch.slurm.sweep import grid_points, names
from launch.slurm.user_settings import slurm_defaults
from trainer.config.overrides import parse_override
from trainer.config.recipes import find_recipe
from trainer.config.schema import Config, dump, given_settings, load_config
from trainer.config.slurm_settings import SlurmSettings
from trainer.runs.run_folder import RunFolder, create_run, open_run, run_of


def submit(
    recipe: str | Path,
    overrides: Sequence[str],
    *,
    preflight: bool,
    dry_run: bool,
    taken: FirstState | None = None,
) -> RunFolder | None:
    """Queue a new run. Returns its folder, or None after a dry run, which queues nothing.

    Args:
        recipe: name of a shipped recipe, or path of a YAML file.
        overrides: `key=value` settings.
        preflight: whether to check for problems that would stop the run.
        dry_run: print the script and the settings, and queue nothing.
        taken: state of another run that the run begins with. None: it begins at step 0.

    Raises:
        UserError: something would stop the run. The message lists all problems, each with its fix.
    """
    config, name = load_config(recipe, overrides, slurm_defaults()), find_recipe(recipe).stem
    run = run_of(config, name)
    if taken is not None:
        taken.refuse_unfit(config)
    if preflight:
        _refuse_what_fails(SlurmSubmission.of(run, config), [config], new_runs=1)
    if dry_run:
        print(SlurmSubmission.of(run, config).script())
        print("# config.yaml")
        print(dump_yaml(masked_values(dump(config))), end="")
        return None
    create_run(config, name)
    with _removed_on_failure(run.path):
        if taken is not None:
            taken.put_into(run, config)
        queued = SlurmSubmission.of(run, config).queue()
    _print_queued(run, config.slurm, queued)
    return run


def resume(
    path: Path, overrides: Sequence[str], *, preflight: bool, dry_run: bool, from_scratch: bool = False
) -> RunFolder | None:
    """Queue a run again. It resumes from its newest complete checkpoint. Returns its folder if it was queued.

    Raises:
        UserError: a job of the run is queued or runs, or something would stop the run.
    """
    run = open_run(path)
    config = settings_on_resume(run, overrides)
    if run.is_finished():
        print(f"{run.path} is finished. {next_command(run)}")
        return None
    _refuse_live_job(run)
    if not from_scratch:
        require_checkpoints(run, config, from_scratch=False)
    if preflight:
        _refuse_what_fails(SlurmSubmission.of(run, config), [config], new_runs=0)
    refuse_other_train_set(run, config)
    warn_of_other_world_size(run, config, config.slurm.ranks)
    if dry_run:
        print(SlurmSubmission.of(run, config).script())
        return None
    if from_scratch:
        require_checkpoints(run, config, from_scratch=True)
    keep_settings(run, config)
    _print_queued(run, config.slurm, SlurmSubmission.of(run, config).queue())
    return run


def submit_sweep(
    recipe: str,
    overrides: Sequence[str],
    sweeps: Sequence[str],
    *,
    parallel: int,
    preflight: bool,
    dry_run: bool,
) -> None:
    """Queue one run for each point of a sweep, all as one job array.

    The run folders are in `run.folder/NAME` and are named by the values of the sweep.

    Args:
        recipe: recipe of all runs.
        overrides: settings of all runs.
        sweeps: `key=value,value,…`.
        parallel: maximum number of runs at a time.
        preflight: whether to check for problems that would stop a run.
        dry_run: print the script and the runs, and queue nothing.

    Raises:
        UserError: something would stop a run. The message lists all problems, each with its fix.
    """
    found, defaults = grid_points(sweeps), slurm_defaults()
    common = load_config(recipe, overrides, defaults)
    folder = run_of(common, find_recipe(recipe).stem)
    if common.slurm.chain > 1:
        raise UserError("a sweep is one job array and cannot be a chain", fix="leave --chain out")
    swept = given_settings([parse_override(assignment) for point in found for assignment in point], {})
    if moved := {key for key in swept if key.startswith(("run.name", "run.folder", "slurm."))}:
        raise UserError(f"{', '.join(sorted(moved))} cannot be swept, because one job array runs all of them")
    if folder.path.exists():
        raise UserError(
            "the sweep's folder exists already",
            where=folder.path,
            fix="choose another folder with run.name=NAME",
        )
    configs = {
        name: load_config(
            recipe,
            [
                *overrides,
                *point,
                f"run.folder={json.dumps(str(folder.path))}",
                f"run.name={json.dumps(name)}",
            ],
            defaults,
        )
        for name, point in zip(names(found), found, strict=True)
    }
    runs = [run_of(config, name) for name, config in configs.items()]
    tells_end = any(config.notify.to for config in configs.values())
    batch = SlurmSubmission(
        runs,
        common.slurm,
        folder.path / "slurm",
        parallel,
        tells_end=tells_end,
        container=container_of(list(configs.values()), folder.path),
    )
    if preflight:
        _refuse_what_fails(batch, list(configs.values()), new_runs=len(runs))
    if dry_run:
        print(batch.script())
        print("\n".join(["# runs", *(str(run.path) for run in runs)]))
        return
    with _removed_on_failure(folder.path):
        for name, config in configs.items():
            create_run(config, name)
        queued = batch.queue()
    print(
        f"jobs {queued[0]} to {queued[-1]}: {len(runs)} runs of {common.slurm.ranks} processes, "
        f"{min(parallel, len(runs))} at a time\n"
        f"run folders:   {folder.path}\n"
        f"status:        all4one status {quoted(folder.path)}\n"
        f"output:        all4one logs {quoted(folder.path)} -f\n"
        f"cancel one:    all4one cancel {quoted(runs[0].path)}",
        flush=True,
    )


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove a new folder if its jobs could not be queued, so that the same command can be given again.

    Raises:
        UserError: jobs of the folder are left in the queue. The folder then stays.
    """
    try:
        yield
    except JobsLeftQueued as error:
        raise UserError(
            error.what,
            where=folder,
            fix=f"{error.fix}, then remove this folder. It is kept because these jobs would train in it",
        ) from None
    except BaseException:  # nothing is queued
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _refuse_what_fails(batch: SlurmSubmission, configs: Sequence[Config], *, new_runs: int) -> None:
    found = [error for config in configs for error in problems(config, config.slurm.ranks, new_runs=new_runs)]
    try:
        refused = refused_by_slurm(batch.script())
    except UserError as error:
        refused = error
    if refused:
        found.append(refused)
    refuse(found)


def refused_by_slurm(script: str) -> UserError | None:
    """Return why SLURM would refuse a job's script, from `sbatch --test-only`. None: it would take the script."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sh"
        path.write_text(script)
        with submission_environment(script):
            return slurm_commands.refusal(path)


def _refuse_live_job(run: RunFolder) -> None:
    chain = Submissions(run).newest_chain()
    known = slurm_commands.jobs(chain)
    number = slurm_commands.current(chain, known)
    job = known.get(number or "")
    if job is not None and not job.over:
        raise UserError(
            f"job {job.number} of this run is {job.state.lower()}",
            where=run.path,
            fix=f"follow it with `all4one logs {quoted(run.path)} -f`, or cancel it with "
            f"`all4one cancel {quoted(run.path)}` and wait until it has ended",
        )


def _print_queued(run: RunFolder, settings: SlurmSettings, queued: Sequence[str]) -> None:
    spares = f", spares {settings.spares}" if settings.spares else ""
    print(
        f"job {', '.join(queued)}: processes {settings.ranks}, nodes {settings.nodes}{spares}\n"
        f"run folder: {run.path}\n"
        f"status:     all4one status {quoted(run.path)}\n"
        f"output:     all4one logs {quoted(run.path)} -f\n"
        f"cancel:     all4one cancel {quoted(run.path)}",
        flush=True,
    )
