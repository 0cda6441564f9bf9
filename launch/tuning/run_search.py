"""`all4one tune`: train the trials of a search, here or as a job array."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.local.preflight import problems, refuse
from launch.local.rank_processes import module_command
from launch.local.runs import check, resume_run
from launch.messages import print_error
from launch.slurm.containers.mounts import container_of
from launch.slurm.live_jobs import refuse_live_jobs
from launch.slurm.submission import SlurmSubmission
from launch.slurm.submit import refused_by_slurm
from launch.slurm.user_settings import slurm_defaults
from launch.tuning.search import Asked, Search
from launch.tuning.search_space import read_space
from launch.tuning.trial_settings import config_of_trial, refuse_unfit
from launch.tuning.trial_table import show
from launch.tuning.trials import Trials, has_ended, require_optuna
from trainer.config.recipes import find_recipe
from trainer.config.schema import Config
from trainer.runs.end_reasons import STOPPED
from trainer.runs.run_folder import RunFolder

BEGIN, WATCH = "launch.tuning.begin_trial", "launch.tuning.watch_trial"


def tune(
    asked: Asked,
    folder: Path | None,
    *,
    nproc: int,
    submit: bool,
    slurm_overrides: Sequence[str],
    parallel: int,
) -> int:
    """Begin a search or go on with it. Returns the exit code.

    Args:
        asked: what the search varies, and what for.
        folder: folder of the search. None: `searches/RECIPE`.
        nproc: number of processes of each trial on this machine.
        submit: whether the trials are elements of a job array. Otherwise they are trained here, one after the other.
        slurm_overrides: `key=value` settings of the job, which may differ whenever the search goes on.
        parallel: maximum number of trials of the array at a time.

    Raises:
        UserError: something would stop a trial, or the trials have failed.
    """
    require_optuna()
    folder = folder or Path("searches") / find_recipe(asked.recipe).stem
    space, defaults = read_space(asked.space), slurm_defaults() if submit else None
    planned = Search(folder, asked)
    config = config_of_trial(planned, planned.trial(0), slurm_overrides, defaults)
    checked = refuse_unfit(config, asked.metric, space)
    if submit:
        refuse(problems(checked, config.slurm.ranks, new_runs=asked.trials))
    else:
        check(checked, nproc, new_runs=asked.trials)
    search = Search.begin(folder, asked)
    refuse_live_jobs(folder, search.all_trials, "this search", f"`all4one trials {quoted(folder)}`")
    left = [run for run in search.all_trials if not has_ended(run)]
    if submit and left:
        _queue(search, left, config, parallel)
        return 0
    return _train(search, left, nproc)


def _queue(search: Search, left: Sequence[RunFolder], config: Config, parallel: int) -> None:
    """Submit trials as one job array. Each draws its settings when its job starts."""
    if config.slurm.chain > 1:
        raise UserError("a search is one job array, which cannot be a chain", fix="set slurm.chain=1")
    batch = SlurmSubmission(
        left,
        config.slurm,
        search.folder / "slurm",
        parallel,
        tells_end=bool(config.notify.to),
        container=container_of([config], search.folder),
        before=BEGIN,
        beside=WATCH if search.asked.prune else None,
    )
    if refused := refused_by_slurm(batch.script()):
        raise refused
    for run in left:
        run.path.mkdir(parents=True, exist_ok=True)
        # Until its settings are drawn, a trial has those that all trials share, for `status` and `cancel`.
        own = run.read_config() if run.attempts() else config.with_absolute_paths()
        run.write_config(own.model_copy(update={"slurm": config.slurm}))
    queued = batch.queue()
    print(
        f"jobs {queued[0]} to {queued[-1]}: {len(queued)} trials of {config.slurm.ranks} processes, "
        f"{min(parallel, len(queued))} at a time\n"
        f"progress:  all4one status {quoted(search.folder)}\n"
        f"results:   all4one trials {quoted(search.folder)}",
        flush=True,
    )


def _train(search: Search, left: Sequence[RunFolder], nproc: int) -> int:
    """Train trials one after the other. Returns the exit code."""
    space, failed = read_space(search.asked.space), list[RunFolder]()
    for run in left:
        number = search.number_of(run)
        trials = Trials(search, number)
        trials.settle()
        overrides = trials.ask(number, space)
        print(f"{run.path.name} of {search.asked.trials} trials: {' '.join(overrides)}", flush=True)
        if not run.attempts():  # a trial that was only queued has no settings of its own
            run.logs.mkdir(parents=True, exist_ok=True)
            run.write_config(config_of_trial(search, run, overrides).with_absolute_paths())
        code = _train_one(search, run, nproc)
        if code in STOPPED and not run.pruned.exists():
            print("continue the search with the same command")
            return code
        if code and code not in STOPPED:
            trials.fail(number)
            failed.append(run)
    show(search, as_json=False)
    if failed:
        names = "\n".join(f"  - {run.path}" for run in failed)
        raise UserError(
            f"{len(failed)} of {search.asked.trials} trials failed:\n{names}",
            where=search.folder,
            fix="read their output. The same command tries them again",
        )
    return 0


def _train_one(search: Search, run: RunFolder, nproc: int) -> int:
    """Train one trial from its current state. Returns the exit code."""
    try:
        with _watched(search, run):
            return resume_run(run.path, [], nproc)
    except KeyboardInterrupt:
        if not run.pruned.exists():
            raise
        return STOPPED[0]  # the watcher's signal came when the processes had just ended
    except UserError as error:
        print_error(error)
        return 2


@contextmanager
def _watched(search: Search, run: RunFolder) -> Iterator[None]:
    """Watch a trial from another process, if the search stops those that fall behind.

    A thread would not do, because a process with threads cannot fork safely.
    """
    if not search.asked.prune:
        yield
        return
    watcher = subprocess.Popen(
        module_command(WATCH, str(run.path), str(os.getpid())),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()


def recipe_place(recipe: str) -> str:
    """Return the name of a shipped recipe, or the absolute path of a file, which every working directory finds."""
    path = find_recipe(recipe)
    return recipe if path.stem == recipe else str(path.absolute())
