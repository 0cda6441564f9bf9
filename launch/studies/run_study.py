"""`all4one study`: train the unfinished runs of a study, here or as a job array, and report the results."""

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.formatting import quoted
from launch.local.preflight import problems, refuse
from launch.local.runs import resume_run
from launch.slurm import slurm_commands
from launch.slurm.submission import SlurmSubmission
from launch.slurm.submit import refused_by_slurm
from launch.slurm.submitted_jobs import Submissions
from launch.slurm.user_settings import slurm_defaults
from launch.status.suspect_nodes import excluded_by_runs
from launch.studies.plan import RENAMED_STUDIES, Cell, Study, find_study, read_study, runs_of
from launch.studies.scores import (
    EVALUATE_RUN,
    evaluate_finished,
    is_evaluated,
    is_finished,
    require_evaluator,
    require_labels,
)
from launch.studies.study_report import report
from trainer.config.resume_compat import training_config
from trainer.config.schema import Config, dump
from trainer.runs.end_reasons import STOPPED
from trainer.runs.run_folder import RunFolder, create_run, run_of


def study(
    name: str,
    overrides: Sequence[str],
    *,
    nproc: int,
    out: Path | None,
    submit: bool,
    parallel: int,
    show: bool,
    exclude_suspects: bool = False,
) -> int:
    """Train the unfinished runs, evaluate them, and report. Return the exit code.

    Args:
        name: file of a study, or the name of a shipped study.
        overrides: `key=value` settings of every run.
        nproc: processes of each run on this machine.
        out: folder of the runs and of the report. None: `studies/NAME`.
        submit: whether to submit the unfinished runs as a job array instead of training them here.
        parallel: maximum number of array runs at the same time.
        show: whether to report only what is there.
        exclude_suspects: whether submitted runs exclude the nodes that are suspect by the failures of the study's runs.

    Raises:
        UserError: the study is not valid, jobs are running on it, or a problem would stop a run.
    """
    asked, folder = read_study(name), (out or Path("studies") / _folder_name(name))
    configs = runs_of(asked, folder, overrides, slurm_defaults() if submit else None)
    if exclude_suspects:
        excluded = excluded_by_runs(folder, next(iter(configs.values())).slurm.exclude)
        configs = runs_of(asked, folder, [*overrides, *excluded], slurm_defaults())
    runs = {cell: run_of(config, cell.name) for cell, config in configs.items()}
    _refuse_other_settings(configs, runs)
    for config in configs.values():
        require_evaluator(asked, config)
    if not show:
        _refuse_live(runs, folder)
    left = [cell for cell, run in runs.items() if not is_finished(run)]
    failed: list[Cell] = []
    if left and not show:
        ranks = configs[left[0]].slurm.ranks if submit else nproc
        one_of_each = {cell.choices: configs[cell] for cell in left}  # all seeds have the same problems
        for config in {str(c.data.train): c for c in one_of_each.values()}.values():  # open each dataset once
            require_labels(config)
        refuse([e for config in one_of_each.values() for e in problems(config, ranks, new_runs=len(left))])
        if submit:
            _queue(asked, {cell: configs[cell] for cell in left}, runs, folder, parallel)
            if unevaluated := [
                run for run in runs.values() if is_finished(run) and not is_evaluated(asked, run)
            ]:
                print(
                    f"{len(unevaluated)} of {len(runs)} runs are trained but not evaluated, such as "
                    f"{unevaluated[0].path}. "
                    "Run the same command without --submit to evaluate them when these jobs have ended"
                )
            report(asked, runs, folder)
            return 0
        for number, cell in enumerate(left, 1):
            print(f"run {number} of {len(left)}: {cell.name}", flush=True)
            code = _train(configs[cell], runs[cell], nproc)
            if code in STOPPED:
                print("resume the study with the same command")
                return code
            failed += [cell] if code or not evaluate_finished(asked, runs[cell]) else []
            report(asked, runs, folder)
    if not show:
        failed += [c for c, run in runs.items() if c not in failed and not evaluate_finished(asked, run)]
    report(asked, runs, folder, out=plain_console())
    if failed:
        names = "\n".join(f"  - {runs[cell].path}" for cell in failed)
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed:\n{names}",
            where=folder,
            fix="fix the problems and run the command again",
        )
    return 0


def _folder_name(name: str) -> str:
    """Return the name of a study's default folder. A study that is started by its old name keeps its old folder."""
    found = find_study(name).stem
    if RENAMED_STUDIES.get(name) != found:
        return found
    print(f"notice: the study {name} is now {found} (the old name still works)", file=sys.stderr)
    return name


def _refuse_other_settings(configs: Mapping[Cell, Config], runs: Mapping[Cell, RunFolder]) -> None:
    """Refuse runs with other settings than the study's, because their results would not be comparable."""
    for cell, run in runs.items():
        if run.config.exists() and _compared(run.read_config()) != _compared(configs[cell]):
            raise UserError(
                "this run was started with settings that differ from the study's current settings",
                where=run.path,
                fix="undo the changes to the study, or use --out FOLDER to keep both",
            )


def _compared(config: Config) -> object:
    config = config.with_absolute_paths()  # a run stores these
    values = dump(config)
    sets = [values["data"][key] for key in ("train", "validation", "eval_resize")]
    return training_config(config), values["eval"], sets


def _train(config: Config, run: RunFolder, nproc: int) -> int:
    """Train and evaluate a run from its current state to the end. Return the exit code."""
    try:
        if not run.config.exists():
            create_run(config, run.path.name)
        return resume_run(run.path, [], nproc)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _queue(
    asked: Study, configs: Mapping[Cell, Config], runs: Mapping[Cell, RunFolder], folder: Path, parallel: int
) -> None:
    settings = next(iter(configs.values())).slurm
    if settings.chain > 1:
        raise UserError(
            "a study is submitted as one job array, which cannot be a chain", fix="set slurm.chain=1"
        )
    then = f"{EVALUATE_RUN} {asked.backbone}" if asked.evaluator == "linear_fast" else None
    batch = SlurmSubmission([runs[cell] for cell in configs], settings, folder / "slurm", parallel, then)
    if refused := refused_by_slurm(batch.script()):
        raise refused
    for cell, config in configs.items():
        if not runs[cell].config.exists():
            create_run(config, cell.name)
    queued = batch.queue()
    print(
        f"jobs {queued[0]} to {queued[-1]}: {len(queued)} runs of {settings.ranks} processes\n"
        f"progress:  all4one status {quoted(folder)}\n"
        "results, also while the runs train: the same command with --show",
        flush=True,
    )


def _refuse_live(runs: Mapping[Cell, RunFolder], folder: Path) -> None:
    """Refuse to train or evaluate runs that a SLURM job is working on."""
    chains = [Submissions(run).newest_chain() for run in runs.values() if run.config.exists()]
    over = {number: job.over for number, job in slurm_commands.jobs(chain.from_iterable(chains)).items()}
    if live := [numbers for numbers in chains if not all(over.get(number, True) for number in numbers)]:
        raise UserError(
            f"SLURM jobs of {len(live)} run{'s' * (len(live) > 1)} of this study are queued or running",
            where=folder,
            fix=f"see their progress with `all4one status {quoted(folder)}`, end one with "
            "`all4one cancel RUN`, or print results with --show",
        )
