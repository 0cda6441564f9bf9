"""`all4one study`: trains what a study still lacks, here or as a job array, and says what the finished runs show."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_pipelines.errors import UserError
from data_pipelines.files import write_whole
from launch.batch import Batch
from launch.jobs import resume_run
from launch.preflight import problems, refuse
from launch.studies.plan import Cell, Study, find_study, read_study, runs_of
from launch.studies.plot import plot
from launch.studies.statistics import Judgement, Row, judge, table
from launch.submissions import Submissions
from launch.submit import refused_by_slurm
from launch.user_settings import slurm_defaults
from trainer.config import Config
from trainer.run import RunFolder, create_run, read_records, run_of

STOPPED = (130, 143)


def study(
    name: str,
    overrides: Sequence[str],
    *,
    nproc: int,
    out: Path | None,
    submit: bool,
    parallel: int,
    show: bool,
) -> int:
    """Train the runs that are not finished, judge them, and report. Returns the exit code.

    Args:
        name: a study's file, or the name of a shipped one.
        overrides: `key=value` settings of every run.
        nproc: processes of each run on this machine.
        out: folder of the runs and of the report; None: `studies/NAME`.
        submit: queue what is not finished as a job array, rather than train it here.
        parallel: runs of the array that run at a time, at most.
        show: only report what is there.

    Raises:
        UserError: the study is not valid, or something would stop a run.
    """
    asked, folder = read_study(name), (out or Path("studies") / find_study(name).stem)
    configs = runs_of(asked, folder, overrides, slurm_defaults() if submit else None)
    runs = {cell: run_of(config, cell.name) for cell, config in configs.items()}
    _refuse_other_settings(configs, runs)
    left = [cell for cell, run in runs.items() if not (run.config.exists() and run.is_finished())]
    failed: list[Cell] = []
    if left and not show:
        ranks = configs[left[0]].slurm.ranks if submit else nproc
        _refuse_what_fails([configs[cell] for cell in left], ranks)
        if submit:
            _queue({cell: configs[cell] for cell in left}, runs, folder, parallel)
            return 0
        for number, cell in enumerate(left, 1):
            Console(highlight=False).print(f"run {number} of {len(left)}: {cell.name}", markup=False)
            code = _train(configs[cell], runs[cell], nproc)
            if code in STOPPED:
                print(f"go on with it: all4one study {name}")
                return code
            failed += [cell] if code else []
            report(asked, runs, folder)
    report(asked, runs, folder, out=Console(highlight=False))
    if failed:
        names = "\n".join(f"  - {runs[cell].path}" for cell in failed)
        raise UserError(
            f"{len(failed)} of {len(left)} runs failed:\n{names}",
            where=folder,
            fix="mend them and give the command again",
        )
    return 0


def report(asked: Study, runs: Mapping[Cell, RunFolder], folder: Path, out: Console | None = None) -> None:
    """Write what the finished runs show as `study.json`, `study.md` and `study.png`, and print it."""
    scores = {cell: score for cell, run in runs.items() if (score := _score(asked, run)) is not None}
    rows = table(asked, list(runs), scores)
    judgements = [judge(asked, claim, scores) for claim in asked.claims]
    found = {
        "description": asked.description, "judge": asked.judge, "backbone": asked.backbone, "compare": asked.compare,
        "runs": [{**dict(c.choices), "seed": c.seed, "score": scores.get(c)} for c in runs],
        "rows": [_as_json(row) for row in rows],
        "claims": [{**j.claim.model_dump(), "verdict": j.verdict, "words": str(j)} for j in judgements],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "study.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / "study.md", _markdown(asked, rows, judgements).encode())
    if scores:
        plot(asked, rows, folder / "study.png")
    if out is not None:
        _print(out, asked, rows, judgements, len(scores), len(runs))
        out.print(f"wrote {folder}/study.json, study.md" + (" and study.png" if scores else ""), markup=False)


def _refuse_other_settings(configs: Mapping[Cell, Config], runs: Mapping[Cell, RunFolder]) -> None:
    """A table of runs with other budgets than the study's would compare what cannot be compared."""
    free = {"slurm", "parallel", "checkpoint", "metrics", "run", "description"}
    for cell, run in runs.items():
        if run.config.exists() and run.read_config().model_dump(exclude=free) != configs[cell].model_dump(
            exclude=free
        ):
            raise UserError(
                "this run was begun with other settings than the study has now",
                where=run.path,
                fix="take the study's changes back, or keep both with --out FOLDER",
            )


def _refuse_what_fails(configs: Sequence[Config], ranks: int) -> None:
    found = {str(e): e for config in configs for e in problems(config, ranks, new_runs=len(configs))}
    refuse(list(found.values()))


def _train(config: Config, run: RunFolder, nproc: int) -> int:
    """A run from where it is to its judged end. Returns the exit code."""
    try:
        if not run.config.exists():
            create_run(config, run.path.name)
        return resume_run(run.path, [], nproc)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def _queue(
    configs: Mapping[Cell, Config], runs: Mapping[Cell, RunFolder], folder: Path, parallel: int
) -> None:
    settings = next(iter(configs.values())).slurm
    if live := [cell.name for cell in configs if _live(runs[cell])]:
        raise UserError(
            f"{len(live)} runs of this study are queued or run", where=folder,
            fix=f"all4one status {folder} says how they go; all4one cancel RUN ends one",
        )  # fmt: skip
    batch = Batch([runs[cell] for cell in configs], settings, folder / "slurm", parallel)
    if refused := refused_by_slurm(batch.script()):
        raise refused
    for cell, config in configs.items():
        if not runs[cell].config.exists():
            create_run(config, cell.name)
    queued = batch.queue()
    print(
        f"jobs {queued[0]} to {queued[-1]}: {len(queued)} runs of {settings.ranks} processes\n"
        f"how they go:  all4one status {folder}\n"
        "what they show, also while they run: the same command with --show",
        flush=True,
    )


def _live(run: RunFolder) -> bool:
    from launch import slurm

    chain = Submissions(run).newest_chain() if run.config.exists() else []
    return any(not job.over for job in slurm.jobs(chain).values())


def _score(asked: Study, run: RunFolder) -> float | None:
    """Accuracy of a finished run, in percent; None where it is not finished or cannot be judged."""
    if not (run.config.exists() and run.is_finished()):
        return None
    if asked.judge == "knn":
        last = [r for r in read_records(run.metrics) if r["kind"] == "eval"][-1:]
        values = {name: last[0].get(f"knn_{name}") for name in ("momentum", "online")} if last else {}
    else:
        values = _linear_scores(run)
    value = values.get(asked.backbone) or values.get("online")
    return None if value is None else 100 * value


def _linear_scores(run: RunFolder) -> dict[str, float | None]:
    """Top-1 of logistic regression by backbone, which is fitted where it has not been."""
    path = run.path / "eval.json"
    for _ in range(2):
        if path.exists():
            judged = json.loads(path.read_text())["backbones"]
            if all("linear_fast" in by for by in judged.values()):
                return {name: by["linear_fast"]["top1"] for name, by in judged.items()}
        command = [sys.executable, "-m", "launch.cli", "eval", str(run.path), "--linear-fast"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {}


def _as_json(row: Row) -> dict[str, Any]:
    return {k: v for k, v in asdict(row).items() if k != "choices"} | dict(row.choices)


def _lines(asked: Study, rows: Sequence[Row]) -> list[list[str]]:
    lines = []
    for row in rows:
        count = row.score.samples if row.score else 0
        difference = f"{row.difference.mean:+.2f}" if row.difference else ""
        if row.difference and row.difference.samples > 1:
            difference += f" ± {row.difference.half:.2f}"
        lines.append([
            *(choice for _, choice in row.choices), f"{count}/{row.wanted}", str(row.score) if row.score else "",
            f"{difference} to {row.best_other}" if difference else "",
        ])  # fmt: skip
    return lines


def _header(asked: Study) -> list[str]:
    return [
        *asked.grid,
        "runs",
        f"{asked.judge} of the {asked.backbone} backbone, %",
        "difference to the best other",
    ]


def _markdown(asked: Study, rows: Sequence[Row], judgements: Sequence[Judgement]) -> str:
    header = _header(asked)
    lines = [asked.description, "", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(line)} |" for line in _lines(asked, rows)]
    lines += ["", "Means with intervals of 95 % over seeds; differences are paired by seed.", ""]
    return "\n".join(lines + [f"- {j}" for j in judgements]) + "\n"


def _print(
    console: Console, asked: Study, rows: Sequence[Row], judgements: Sequence[Judgement], done: int, runs: int
) -> None:
    shown = Table(
        *_header(asked),
        title=f"{asked.description}: {done} of {runs} runs are finished",
        title_justify="left",
    )
    for line in _lines(asked, rows):
        shown.add_row(*line)
    console.print(shown)
    for judgement in judgements:
        console.print(f"- {judgement}", markup=False, soft_wrap=True)
