"""`all4one tune`: train the trials of a search, here or as a job array."""

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.local.machine_parts import machine_parts
from launch.local.preflight import problems, refuse
from launch.local.runs import check
from launch.local.side_by_side import SideBySide, print_failure
from launch.slurm.containers.mounts import container_of
from launch.slurm.live_jobs import refuse_live_jobs
from launch.slurm.submission import SlurmSubmission
from launch.slurm.submit import refused_by_slurm
from launch.slurm.user_settings import slurm_defaults
from launch.status.suspect_nodes import excluded_by_runs
from launch.tuning.run_trial import WATCH, draw_settings, run_trial
from launch.tuning.search import Asked, Search
from launch.tuning.search_space import read_space
from launch.tuning.trial_settings import config_of_trial, refuse_unfit
from launch.tuning.trial_table import show
from launch.tuning.trials import Trials, has_ended, require_optuna
from trainer.config.recipes import find_recipe
from trainer.config.schema import Config
from trainer.runs.end_reasons import STOPPED
from trainer.runs.run_folder import RunFolder

BEGIN, TRAIN = "launch.tuning.begin_trial", "launch.tuning.train_trial"


def tune(
    asked: Asked,
    folder: Path | None,
    *,
    nproc: int,
    submit: bool,
    slurm_overrides: Sequence[str],
    array_parallelism: int,
    parallel: int = 1,
    exclude_suspects: bool = False,
) -> int:
    """Begin a search or go on with it. Returns the exit code.

    Args:
        asked: what the search varies, and what for.
        folder: folder of the search. None: `searches/RECIPE`.
        nproc: number of processes of each trial on this machine.
        submit: whether the trials are elements of a job array. Otherwise they are trained here.
        slurm_overrides: `key=value` settings of the job, which may differ whenever the search goes on.
        array_parallelism: maximum number of trials of the array at a time.
        parallel: number of trials to train at the same time on this machine.
        exclude_suspects: whether the job excludes the nodes that are suspect by the failures of the search's trials.

    Raises:
        UserError: something would stop a trial, or the trials have failed.
    """
    require_optuna()
    folder = folder or Path("searches") / find_recipe(asked.recipe).stem
    space, defaults = read_space(asked.space), slurm_defaults() if submit else None
    planned = Search(folder, asked)
    config = config_of_trial(planned, planned.trial(0), slurm_overrides, defaults)
    if exclude_suspects:
        excluded = excluded_by_runs(folder, config.slurm.exclude)
        config = config_of_trial(planned, planned.trial(0), [*slurm_overrides, *excluded], defaults)
    checked = refuse_unfit(config, asked.metric, space)
    if submit:
        refuse(problems(checked, config.slurm.ranks, new_runs=asked.trials))
    else:
        check(checked, nproc, new_runs=asked.trials)
    search = Search.begin(folder, asked)
    refuse_live_jobs(folder, search.all_trials, "this search", f"`all4one trials {quoted(folder)}`")
    left = [run for run in search.all_trials if not has_ended(run)]
    parts = machine_parts(at_once, nproc) if (at_once := min(parallel, len(left))) > 1 else []
    if submit and left:
        _queue(search, left, config, array_parallelism)
        return 0
    failed, code = _side_by_side(search, left, nproc, parts) if parts else _one_by_one(search, left, nproc)
    if code:
        print("continue the search with the same command")
        return code
    _report(search, failed)
    return 0


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


def _one_by_one(search: Search, left: Sequence[RunFolder], nproc: int) -> tuple[list[RunFolder], int]:
    """Train trials one after the other. Returns those that failed, and the exit code if a signal asked to stop,
    otherwise 0."""
    failed = list[RunFolder]()
    for run in left:
        draw_settings(search, run)
        code = run_trial(search, run, nproc)
        if code in STOPPED and not run.pruned.exists():
            return failed, code
        if code and code not in STOPPED:
            failed.append(run)
            _record_failure(search, run)
    return failed, 0


def _side_by_side(
    search: Search, left: Sequence[RunFolder], nproc: int, parts: Sequence[Mapping[str, str]]
) -> tuple[list[RunFolder], int]:
    """Train trials, some at the same time. Returns those that failed, and the exit code if a signal asked to stop,
    otherwise 0."""
    waiting, failed = deque(left), list[RunFolder]()
    print(f"progress of all trials: all4one status {quoted(search.folder)}", flush=True)
    with SideBySide(parts) as beside:
        while True:
            while waiting and beside.has_room:
                run = waiting.popleft()
                draw_settings(search, run)
                beside.start(run, TRAIN, str(run.path), str(nproc))
            if not beside.runs:
                return failed, beside.stop_code
            for run, code in beside.wait():
                if code == 0:
                    print(f"{run.path.name}: finished", flush=True)
                elif code in STOPPED and run.pruned.exists():
                    print(f"{run.path.name}: stopped, because it has fallen behind", flush=True)
                elif not beside.stop_code:
                    failed.append(run)
                    print_failure(run)
                    if code not in STOPPED:
                        _record_failure(search, run)


def _record_failure(search: Search, run: RunFolder) -> None:
    """Tell the sampler that a trial has failed."""
    number = search.number_of(run)
    Trials(search, number).fail(number)


def _report(search: Search, failed: Sequence[RunFolder]) -> None:
    """Print the trials. Raises a UserError if some have failed."""
    show(search, as_json=False)
    if failed:
        names = "\n".join(f"  - {run.path}" for run in failed)
        raise UserError(
            f"{len(failed)} of {search.asked.trials} trials failed:\n{names}",
            where=search.folder,
            fix="read their output. The same command tries them again",
        )


def recipe_place(recipe: str) -> str:
    """Return the name of a shipped recipe, or the absolute path of a file, which every working directory finds."""
    path = find_recipe(recipe)
    return recipe if path.stem == recipe else str(path.absolute())
