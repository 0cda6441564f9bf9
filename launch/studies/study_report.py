"""The report of a study, as files and on the terminal."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from data_pipelines.files import write_whole
from launch.studies.claims import Verdict, decide_claim
from launch.studies.plan import Cell, Study
from launch.studies.plot import plot
from launch.studies.results_elsewhere import REPORT
from launch.studies.statistics import Estimate, Row, table
from launch.studies.study_runs import StudyRuns

WORDS = "Means over seeds with 95 % intervals. Differences are paired by seed."
"""The note under the table."""
SEQUENTIAL_WORDS = (
    f"{WORDS} The intervals hold for all numbers of seeds at once, so that one may look after each seed."
)


def report(runs: StudyRuns, out: Console | None = None) -> None:
    """Write the results of the finished runs as `study.json`, `study.md` and `study.png`, and print them."""
    asked, folder, scores, spent = runs.asked, runs.folder, runs.scores(), runs.spent()
    rows, costs = table(asked, list(runs.runs), scores), runs.mean_hours()
    verdicts = [decide_claim(asked, claim, scores, costs) for claim in asked.claims]
    words = _words(runs, spent)
    found = {
        "description": asked.description,
        "evaluator": asked.evaluator,
        "backbone": asked.backbone,
        "compare": asked.compare,
        "table": {"header": _header(asked), "rows": _lines(asked, rows), "words": words},
        "runs": _runs_as_json(runs, scores),
        "device_hours": {"budget": asked.device_hours, "spent": spent},
        "rows": [_as_json(row) for row in rows],
        "claims": [_claim_as_json(one) for one in verdicts],
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / REPORT, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(folder / "study.md", _markdown(asked, rows, verdicts, words).encode())
    if scores:
        plot(asked, rows, scores, folder / "study.png")
    if out is not None:
        _print(out, asked, rows, verdicts, len(scores), len(runs.runs))
        out.print(words, soft_wrap=True)
        out.print(f"wrote {folder}/study.json, study.md" + (" and study.png" if scores else ""))


def _words(runs: StudyRuns, spent: float) -> str:
    """Return the note under the table: what the intervals mean, what a sequential study has cost, and which
    results come from files."""
    budget, words = runs.asked.device_hours, WORDS
    if budget is not None:
        words = (
            f"{SEQUENTIAL_WORDS} {spent:.2f} of {budget:g} device-hours are used. "
            "A claim gets further seeds until it is decided or the rest does not pay for another seed."
        )
    if counts := runs.counts_by_file():
        each = ", ".join(f"{count} from {file}" for file, count in counts.items())
        words += f" The results of {sum(counts.values())} of {len(runs.runs)} runs come from files: {each}."
    return words


def _runs_as_json(runs: StudyRuns, scores: Mapping[Cell, float]) -> list[dict[str, Any]]:
    """Return the runs with what `--results` needs of them. An axis with the name of a fact hides the fact."""
    spent = runs.hours()
    found = []
    for cell in runs.runs:
        facts = {"device_hours": spent[cell], "settings": runs.settings[cell], **runs.sets(cell)}
        named = {**dict(cell.choices), "seed": cell.seed, "score": scores.get(cell)}
        found.append({**named, **facts, **named})
    return found


def _claim_as_json(found: Verdict) -> dict[str, Any]:
    return {
        **found.claim.model_dump(),
        "verdict": found.verdict,
        "difference": _interval(found.difference),
        "seeds_needed": found.seeds_needed,
        "hours_needed": found.hours_needed,
        "words": str(found),
    }


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
        if row.difference and math.isfinite(row.difference.half):
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


def _markdown(asked: Study, rows: Sequence[Row], verdicts: Sequence[Verdict], words: str) -> str:
    header = _header(asked)
    lines = [asked.description, "", f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(line)} |" for line in _lines(asked, rows)]
    lines += ["", words, ""]
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
