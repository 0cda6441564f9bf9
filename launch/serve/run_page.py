"""What the page of one run, or of several runs side by side, shows. It consists of the parts of `all4one report`."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.formatting import amount, duration, readable
from data_pipelines.masking import masked, masked_values
from launch.report import tables
from launch.report.facts import RunFacts, read_evaluated, settings_by_key
from launch.report.headline import key_figures
from launch.report.page import Section
from launch.report.record_sections import record_sections, result_sections
from launch.serve.damage import DAMAGE, unless_damaged
from launch.serve.metric_series import MetricSeries
from launch.serve.plain_settings import as_config, read_settings
from launch.serve.runs_of_folder import PROFILE_FILE, RunsOfFolder
from launch.status.run_status import status
from launch.status.suspect_nodes import times_in_failures
from launch.status.tables import goodput_line
from trainer.runs.run_folder import RunFolder

_LOG_ENDS = (".log", ".log.1", ".txt", ".out", ".err")
_LOG_FOLDERS = ("logs", "slurm")
_MOST_LOGS = 500
"""Maximum number of logs to choose from. A long run of many ranks has thousands."""

_DAMAGED_RESULTS = [
    Section("Results", words="The results cannot be read. Evaluate the run again with `all4one eval`.")
]


@dataclass(frozen=True)
class RunRecords:
    """A run and the settings and values that its page shows."""

    facts: RunFacts
    settings: dict[str, Any]
    """Nested, without passwords of URLs."""


def read_run(run: RunFolder, name: str, series: MetricSeries) -> RunRecords:
    """Return what is on record of a run.

    Raises:
        UserError: its settings or records cannot be read.
    """
    values = read_settings(run.config)
    try:
        facts = RunFacts(
            run=run,
            name=name,
            config=as_config(values),
            status=status(run, None, None, series.speeds()),
            records=series.newest(),
            evaluated=read_evaluated(run),
            versions={},
        )
        return RunRecords(facts, masked_values(values))
    except (OSError, *DAMAGE) as error:
        raise UserError(f"the records of this run cannot be read: {error}", where=name) from None


def run_page(records: RunRecords, folder: RunsOfFolder) -> dict[str, Any]:
    """Return the page of a run without its curves, as JSON."""
    facts = records.facts
    values = dict(settings_by_key(records.settings))
    words = [str(values.get(key) or "") for key in ("method.name", "backbone.name")]
    found = facts.status
    return {
        "id": facts.name,
        "state": found.state,
        "description": masked(str(records.settings.get("description") or "")),
        "subtitle": ", ".join(filter(None, words)),
        "why": masked(found.why or ""),
        "left": duration(found.seconds_left) if found.seconds_left is not None else "",
        "figures": [figure._asdict() for figure in unless_damaged(lambda: key_figures(facts), [])],
        "results": [
            as_json(one) for one in unless_damaged(lambda: [*result_sections(facts)], _DAMAGED_RESULTS)
        ],
        "sections": [as_json(section) for section in _sections(facts)],
        "settings": [[key, tables.shown(value)] for key, value in values.items()],
        "logs": [
            {"name": name, "size": path.stat().st_size} for name, path in logs_of(facts.run, folder).items()
        ],
        "profile": (facts.run.path / PROFILE_FILE).is_file(),
        "has_checkpoint": found.checkpoint_step is not None,
    }


def compared(several: Sequence[RunRecords]) -> dict[str, Any]:
    """Return the tables of runs side by side, as JSON."""
    facts = [records.facts for records in several]
    different = tables.differing({one.facts.name: one.settings for one in several})
    names = tables.Table(("run", "state"), [[one.name, one.status.state] for one in facts])
    sections = [
        *unless_damaged(
            lambda: [Section("Runs", table=tables.side_by_side(facts))], [Section("Runs", table=names)]
        ),
        Section(
            "Settings that differ",
            words="" if different.rows else "All settings of these runs are the same.",
            table=different if different.rows else None,
        ),
    ]
    return {"sections": [as_json(section) for section in sections]}


def as_json(section: Section) -> dict[str, Any]:
    """Return the text and the table of a section. The page puts them into elements as text, never as HTML."""
    table = section.table
    return {
        "title": section.title,
        "words": section.words,
        "points": list(section.points),
        "header": list(table.header) if table else [],
        "rows": [[masked(str(cell)) for cell in row] for row in table.rows] if table else [],
    }


def logs_of(run: RunFolder, folder: RunsOfFolder) -> dict[str, Path]:
    """Return the text files with output of a run by their names within it, the newest first.

    Links that lead out of the folder are not among them.
    """
    found = [
        path
        for part in _LOG_FOLDERS
        for path in (run.path / part).glob("**/*")
        if path.name.endswith(_LOG_ENDS) and path.is_file() and folder.holds(path)
    ]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {readable(path.relative_to(run.path).as_posix()): path for path in found[:_MOST_LOGS]}


def read_profile(run: RunFolder) -> dict[str, Any]:
    """Return the results of `all4one profile`: the parts of a step, and the spans of its last one.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    try:
        found = json.loads((run.path / PROFILE_FILE).read_bytes())
        return {
            "spans": [[str(name), _finite(start), _finite(end)] for name, start, end in found["spans"]],
            "parts": {str(name): _finite(seconds) for name, seconds in found["parts"].items()},
            "words": str(found["verdict"]["words"]),
            "step": _finite(found["step"]),
            "about": ", ".join(
                [
                    amount(found["world_size"], "process", "processes"),
                    amount(found["global_batch"], "image in a step", "images in a step"),
                    str(found["device"]),
                ]
            ),
        }
    except (OSError, *DAMAGE):
        raise UserError(
            "there is no profile here", where=PROFILE_FILE, fix="run `all4one profile` again with this --out"
        ) from None


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


def _sections(facts: RunFacts) -> Iterator[Section]:
    found = facts.status
    lines = [f"{times_in_failures(name, found.history)}." for name in found.suspects]
    if found.history:
        lines.insert(0, goodput_line(found.goodput, found.lost_steps))
    nodes = sorted({one.nodes for one in found.history if one.nodes})
    if nodes:
        lines.append(f"Nodes: {', '.join(nodes)}.")
    if lines:
        yield Section("Nodes and time", points=lines)
    yield from record_sections(facts)
