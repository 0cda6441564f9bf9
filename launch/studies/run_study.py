"""`all4one study`: train the unfinished runs of a study, here or as a job array, and report the results."""

import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from data_pipelines.formatting import amount, quoted
from launch.local.machine_parts import machine_parts
from launch.local.preflight import problems, refuse
from launch.local.runs import resume_run
from launch.local.side_by_side import SideBySide, print_failure
from launch.slurm.containers.mounts import container_of
from launch.slurm.live_jobs import refuse_live_jobs
from launch.slurm.submission import SlurmSubmission
from launch.slurm.submit import refused_by_slurm
from launch.slurm.user_settings import slurm_defaults
from launch.status.suspect_nodes import excluded_by_runs
from launch.studies.plan import RENAMED_STUDIES, Cell, find_study, read_study, with_budget
from launch.studies.results_elsewhere import REPORT, lost_runs, refuse_other_sets
from launch.studies.scores import (
    EVALUATE_RUN,
    evaluate_finished,
    is_evaluated,
    is_finished,
    require_evaluator,
    require_labels,
    scores_of,
)
from launch.studies.study_report import report
from launch.studies.study_runs import StudyRuns
from trainer.runs.end_reasons import STOPPED
from trainer.runs.run_folder import create_run

TRAIN_RUN = "launch.studies.train_run"
"""The module that trains and evaluates a run beside others."""


def study(
    name: str,
    overrides: Sequence[str],
    *,
    nproc: int,
    out: Path | None,
    submit: bool,
    array_parallelism: int,
    show: bool,
    parallel: int = 1,
    exclude_suspects: bool = False,
    device_hours: float | None = None,
    results: Sequence[Path] = (),
) -> int:
    """Train the unfinished runs, evaluate them, and report. Return the exit code.

    Args:
        name: file of a study, or the name of a shipped study.
        overrides: `key=value` settings of every run.
        nproc: processes of each run on this machine.
        out: folder of the runs and of the report. None: `studies/NAME`.
        submit: whether to submit the unfinished runs as a job array instead of training them here.
        array_parallelism: maximum number of runs of the job array at the same time.
        show: whether to report only what is there.
        parallel: number of runs to train at the same time on this machine.
        exclude_suspects: whether submitted runs exclude the nodes that are suspect by the failures of the study's runs.
        device_hours: budget of a sequential study. None: that of the study or of an earlier report, if there is one.
        results: files `study.json` of other places. Runs whose scores they list count as finished.

    Raises:
        UserError: the study is not valid, a file does not fit it, jobs are running on it, or a problem would stop a
            run.
    """
    folder = out or Path("studies") / _folder_name(name)
    asked = with_budget(read_study(name), device_hours, folder, results)
    defaults = slurm_defaults() if submit else None
    runs = StudyRuns(asked, folder, overrides, defaults, results)
    if exclude_suspects:
        excluded = excluded_by_runs(folder, next(iter(runs.configs.values())).slurm.exclude)
        runs = StudyRuns(asked, folder, [*overrides, *excluded], defaults, results)
    for config in runs.configs.values():
        require_evaluator(asked, config)
    if show:
        _warn(runs)
        report(runs, out=plain_console())
        return 0
    refuse_live_jobs(runs.folder, runs.runs.values(), "this study", "--show")
    cells = runs.next_cells()
    at_once = parallel if asked.is_sequential else min(parallel, len(cells))
    parts = machine_parts(at_once, nproc) if at_once > 1 else []
    _refuse_problems(runs, cells, nproc, submit=submit)
    if submit and cells:
        _queue(runs, cells, array_parallelism)
        _warn(runs)
        report(runs)
        return 0
    failed = [cell for cell, run in runs.runs.items() if not evaluate_finished(asked, run)]
    _warn(runs)
    failed, code = _side_by_side(runs, nproc, parts, failed) if parts else _one_by_one(runs, nproc, failed)
    if code:
        print("resume the study with the same command")
        return code
    report(runs, out=plain_console())
    if failed:
        names = "\n".join(f"  - {runs.runs[cell].path}" for cell in failed)
        raise UserError(
            f"{len(failed)} of {len(runs.runs)} runs failed:\n{names}",
            where=folder,
            fix="fix the problems and run the command again",
        )
    return 0


def _one_by_one(runs: StudyRuns, nproc: int, failed: Sequence[Cell]) -> tuple[list[Cell], int]:
    """Train and evaluate the unfinished runs one after the other. Those that failed are not started.

    Returns the runs that failed, and the exit code if a signal asked to stop, otherwise 0.
    """
    failed, done = list(failed), 0
    while cells := [cell for cell in runs.next_cells() if cell not in failed]:
        print(f"run {done + 1} of {done + len(cells)}: {cells[0].name}", flush=True)
        code = _train(runs, cells[0], nproc)
        if code in STOPPED:
            return failed, code
        done += 1
        failed += [cells[0]] if code or not evaluate_finished(runs.asked, runs.runs[cells[0]]) else []
        report(runs)
    return failed, 0


def _side_by_side(
    runs: StudyRuns, nproc: int, parts: Sequence[Mapping[str, str]], failed: Sequence[Cell]
) -> tuple[list[Cell], int]:
    """Train and evaluate the unfinished runs, some at the same time. Arguments and result as for `_one_by_one`."""
    failed, begun, asked = list(failed), 0, runs.asked
    print(f"progress of all runs: all4one status {quoted(runs.folder)}", flush=True)
    with SideBySide(parts) as beside:
        while True:
            training = [run.path for run in beside.runs]
            waiting = [
                cell
                for cell in runs.next_cells()
                if cell not in failed and runs.runs[cell].path not in training
            ]
            total = begun + len(waiting)
            while waiting and beside.has_room:
                cell = waiting.pop(0)
                begun += 1
                print(f"run {begun} of {total}: {cell.name}", flush=True)
                run = runs.runs[cell]
                try:
                    _create(runs, cell)
                except UserError as error:
                    print(error, file=sys.stderr)
                    failed.append(cell)
                    continue
                beside.start(run, TRAIN_RUN, str(run.path), str(nproc), asked.evaluator, asked.backbone)
            if not beside.runs:
                return failed, beside.stop_code
            for run, code in beside.wait():
                cell = next(cell for cell, one in runs.runs.items() if one.path == run.path)
                if code and not beside.stop_code:
                    failed.append(cell)
                    print_failure(run)
                elif not code:
                    found = runs.scores().get(cell)
                    print(
                        f"{cell.name}: finished" + ("" if found is None else f", {found:.2f} %"), flush=True
                    )
            report(runs)


def _refuse_problems(runs: StudyRuns, cells: Sequence[Cell], nproc: int, *, submit: bool) -> None:
    """Raise a UserError if something would stop one of these runs, or make it unlike those of other places."""
    one_of_each = {cell.choices: runs.configs[cell] for cell in cells}  # all seeds have the same problems
    for config in {c.data.train_names: c for c in one_of_each.values()}.values():  # open each dataset once
        require_labels(config)
    found = []
    for config in one_of_each.values():
        ranks = config.slurm.ranks if submit else nproc
        found += problems(config, ranks, new_runs=len(cells))
    refuse(found)
    if cells:
        refuse_other_sets(runs.elsewhere, runs.configs)


def _warn(runs: StudyRuns) -> None:
    """Print what the next report leaves out: scores of files that differ from those of this place, which count, and
    runs of which only the last report is left. That report is kept."""
    for cell, score in scores_of(runs.asked, runs.runs).items():
        result = runs.elsewhere.get(cell)
        if result is not None and result.score != score:
            print(
                f"warning: {runs.runs[cell].path} has the score {score}, but {result.file} lists {result.score}. "
                "The run that was trained here counts",
                file=sys.stderr,
            )
    if lost := lost_runs(runs.asked, runs.folder, runs.scores()):
        kept = _keep_report(runs.folder)
        print(
            f"warning: {runs.folder / REPORT} lists {amount(len(lost), 'run', 'runs')} without a folder, such as "
            f"{lost[0]}. The new report leaves them out. The old one is kept. To count them again, add "
            f"--results {quoted(kept)}",
            file=sys.stderr,
        )


def _keep_report(folder: Path) -> Path:
    """Copy the report of a folder to the first free name, unless there is such a copy. Return the copy."""
    content = (folder / REPORT).read_bytes()
    for number in count(1):
        path = folder / f"study.{number}.json"
        if not path.exists():
            write_whole(path, content)
        if path.read_bytes() == content:
            break
    return path


def _folder_name(name: str) -> str:
    """Return the name of a study's default folder. A study that is started by its old name keeps its old folder."""
    found = find_study(name).stem
    if RENAMED_STUDIES.get(name) != found:
        return found
    print(f"notice: the study {name} is now {found} (the old name still works)", file=sys.stderr)
    return name


def _create(runs: StudyRuns, cell: Cell) -> None:
    """Create the folder of a run that has not begun."""
    if not runs.runs[cell].config.exists():
        create_run(runs.configs[cell], cell.name)


def _train(runs: StudyRuns, cell: Cell, nproc: int) -> int:
    """Train a run from its current state to the end. Return the exit code."""
    try:
        _create(runs, cell)
        return resume_run(runs.runs[cell].path, [], nproc)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _queue(runs: StudyRuns, cells: Sequence[Cell], parallel: int) -> None:
    """Submit runs as one job array."""
    asked, settings = runs.asked, runs.configs[cells[0]].slurm
    if settings.chain > 1:
        raise UserError(
            "a study is submitted as one job array, which cannot be a chain", fix="set slurm.chain=1"
        )
    then = f"{EVALUATE_RUN} {asked.backbone}" if asked.evaluator == "linear_fast" else None
    folders = [runs.runs[cell] for cell in cells]
    tells_end = any(runs.configs[cell].notify.to for cell in cells)
    container = container_of([runs.configs[cell] for cell in cells], runs.folder)
    batch = SlurmSubmission(
        folders, settings, runs.folder / "slurm", parallel, then, tells_end, container=container
    )
    if refused := refused_by_slurm(batch.script()):
        raise refused
    for cell in cells:
        _create(runs, cell)
    queued = batch.queue()
    print(
        f"jobs {queued[0]} to {queued[-1]}: {len(queued)} runs of {settings.ranks} processes\n"
        f"progress:  all4one status {quoted(runs.folder)}\n"
        "results, also while the runs train: the same command with --show",
        flush=True,
    )
    if asked.is_sequential:
        print("further seeds: once these jobs have ended, run the same command again")
    waiting = [run for run in runs.runs.values() if is_finished(run) and not is_evaluated(asked, run)]
    if waiting:
        print(
            f"{len(waiting)} of {len(runs.runs)} runs are trained but not evaluated, such as "
            f"{waiting[0].path}. "
            "Run the same command without --submit to evaluate them when these jobs have ended"
        )
