"""`all4one eval FOLDER`: evaluate the finished runs of a folder, one after the other, and compare them."""

import sys
from pathlib import Path

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.formatting import percent, quoted
from launch.evaluate.backbone_job import run_in_processes
from launch.evaluate.evaluation import EvalJob
from launch.evaluate.results import main_figure, read_results
from launch.messages import print_error
from trainer.checkpoints.format import MANIFEST
from trainer.runs.end_reasons import STOPPED
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder, runs_below
from trainer.runs.run_lock import is_held


def holds_runs(path: Path) -> bool:
    """Whether a path is a folder of several runs, and not of one run or of one checkpoint."""
    is_one = RunFolder(path).config.is_file() or (path / MANIFEST).is_file()
    return path.is_dir() and not is_one and bool(runs_below(path))


def evaluate_runs(job: EvalJob, nproc: int) -> int:
    """Evaluate each finished run in the folder `job.source`, and print a table of all results.

    If one fails, the others are evaluated all the same. Each runs in processes of its own, so that one that is killed
    does not end the others.

    Args:
        job: what to evaluate in each run.
        nproc: processes on this machine.

    Returns 0 if all finished runs were evaluated, 1 if one failed, or the exit code after a signal asked to stop.

    Raises:
        UserError: no run is finished, or all results would go to one file.
    """
    folder = job.source
    if job.out is not None:
        raise UserError(
            "--out names one file, but each run of this folder has its own results",
            where=folder,
            fix="leave --out out. The results go to eval.json in the folder of each run",
        )
    runs = {str(run.path.relative_to(folder)): run for run in runs_below(folder)}
    finished = {name: run for name, run in runs.items() if run.is_finished()}
    left_out = {name: _why_unfinished(run) for name, run in runs.items() if name not in finished}
    for name, why in left_out.items():
        print(f"left out: {name} {why}", file=sys.stderr)
    if not finished:
        raise UserError(
            f"none of the {len(runs)} runs in this folder is finished",
            where=folder,
            fix=f"see them with: all4one status {quoted(folder)}",
        )
    failed = list[str]()
    for number, (name, run) in enumerate(finished.items(), 1):
        print(f"run {number} of {len(finished)}: {name}", flush=True)
        try:
            code = run_in_processes(job.model_copy(update={"source": run.path}), nproc)
        except UserError as error:
            print_error(error)
            code = 1
        if code in STOPPED:
            print("stopped. The results so far are saved", file=sys.stderr)
            return code
        failed += [name] if code else []
    plain_console().print(_comparison(folder, [name for name in finished if name not in failed]))
    counted = f"evaluated {len(finished) - len(failed)} of {len(runs)} runs"
    print(counted + (f", {len(left_out)} left out" if left_out else ""), flush=True)
    if failed:
        print_error(
            UserError(
                f"{len(failed)} of {len(finished)} evaluations failed: {', '.join(failed)}",
                where=folder,
                fix="the reasons are above. Solve them and run the same command again",
            )
        )
    return int(bool(failed))


def _why_unfinished(run: RunFolder) -> str:
    if is_held(run.path):
        return "is still training"
    ends = [record["reason"] for record in read_ledger(run.ledger) if record["event"] == "end"]
    return f"is not finished: {ends[-1]}" if ends else "is not finished: it has not ended any attempt"


def _comparison(folder: Path, names: list[str]) -> Table:
    """Return a table with a row for each run and backbone, and a column for each evaluator."""
    found = {
        (name, backbone): {evaluator: main_figure(result) for evaluator, result in by.items()}
        for name in names
        for backbone, by in (read_results(folder / name / "eval.json") or {"backbones": {}})[
            "backbones"
        ].items()
    }
    evaluators = list(dict.fromkeys(evaluator for values in found.values() for evaluator in values))
    table = Table(
        "run",
        "backbone",
        *evaluators,
        title="top-1 %, of retrieval mAP %, of robustness mean corruption error %",
    )
    for (name, backbone), values in found.items():
        table.add_row(
            name, backbone, *(percent(values.get(evaluator), unit=False) for evaluator in evaluators)
        )
    return table
