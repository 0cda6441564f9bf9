"""The report of a study, as files and on the terminal."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_pipelines.files import write_whole
from launch.studies.plan import Cell, Study
from launch.studies.plot import plot
from launch.studies.scores import score
from launch.studies.statistics import Estimate, Row, Verdict, decide_claim, table
from trainer.runs.run_folder import RunFolder

WORDS = "Means over seeds with 95 % intervals. Differences are paired by seed."
"""The note under the table."""


def report(asked: Study, runs: Mapping[Cell, RunFolder], folder: Path, out: Console | None = None) -> None:
    """Write the results of the finished runs as `study.json`, `study.md` and `study.png`, and print them."""
    scores = {cell: value for cell, run in runs.items() if (value := score(asked, run)) is not None}
    rows = table(asked, list(runs), scores)
    verdicts = [decide_claim(asked, claim, scores) for claim in asked.claims]
    found = {
        "description": asked.description,
        "evaluator": asked.evaluator,
        "backbone": asked.backbone,
        "compare": asked.compare,
        "table": {"header": _header(asked), "rows": _lines(asked, rows), "words": WORDS},
        "runs": [{**dict(c.choices), "seed": c.seed, "score": scores.get(c)} for c in runs],
        "rows": [_as_json(row) for row in rows],
        "claims": [{**j.claim.model_dump(), "verdict": j.verdict, "words": str(j)} for j in verdicts],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "study.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / "study.md", _markdown(asked, rows, verdicts).encode())
    if scores:
        plot(asked, rows, scores, folder / "study.png")
    if out is not None:
        _print(out, asked, rows, verdicts, len(scores), len(runs))
        out.print(f"wrote {folder}/study.json, study.md" + (" and study.png" if scores else ""))


def _as_json(row: Row) -> dict[str, Any]:
    return {
        **dict(row.choices),
        "score": _interval(row.score),
        "runs": row.wanted,
        "best_other": row.best_other,
        "difference": _interval(row.difference),
    }


def _interval(found: Estimate | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    half = found.half if math.isfinite(found.half) else None
    return {"mean": found.mean, "half": half, "samples": found.samples}


def _lines(asked: Study, rows: Sequence[Row]) -> list[list[str]]:
    lines = []
    for row in rows:
        count = row.score.samples if row.score else 0
        difference = f"{row.difference.mean:+.2f}" if row.difference else ""
        if row.difference and row.difference.samples > 1:
            difference += f" ± {row.difference.half:.2f}"
        lines.append(
            [
                *(choice for _, choice in row.choices),
                f"{count}/{row.wanted}",
                str(row.score) if row.score else "",
                f"{difference} to {row.best_other}" if difference else "",
            ]
        )
    return lines


def _header(asked: Study) -> list[str]:
    return [
        *asked.grid,
        "runs",
        f"{asked.evaluator} of the {asked.backbone} backbone, %",
        "difference to the best other choice",
    ]


def _markdown(asked: Study, rows: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    header = _header(asked)
    lines = [asked.description, "", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(line)} |" for line in _lines(asked, rows)]
    lines += ["", WORDS, ""]
    return "\n".join(lines + [f"- {j}" for j in verdicts]) + "\n"


def _print(
    console: Console, asked: Study, rows: Sequence[Row], verdicts: Sequence[Verdict], done: int, runs: int
) -> None:
    shown = Table(
        *_header(asked),
        title=f"{asked.description}: {done} of {runs} runs are evaluated",
        title_justify="left",
    )
    for line in _lines(asked, rows):
        shown.add_row(*line)
    console.print(shown)
    for verdict in verdicts:
        console.print(f"- {verdict}", soft_wrap=True)
