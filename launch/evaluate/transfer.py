"""`all4one eval --transfer FILE`: evaluate one backbone on several datasets, and summarize the results."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import ValidationError, field_validator
from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.errors import UserError
from data_pipelines.files import require_writable, write_whole
from data_pipelines.formatting import percent
from data_pipelines.settings import DataSettings, Settings
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.yaml_reader import read_yaml
from launch.evaluate.backbone_job import run_in_processes
from launch.evaluate.evaluation import EvalJob, fingerprint
from launch.evaluate.results import main_figure, read_results
from launch.messages import print_error
from trainer.config.problems import problem_of
from trainer.inference.loaded_backbones import load_backbones
from trainer.runs.end_reasons import STOPPED


class TransferSet(Settings):
    """One dataset of a transfer evaluation."""

    name: str
    """Name in tables and in file names: letters, digits, `_` and `-`."""
    train: str
    """Labeled shards to train on, as for `--train`."""
    validation: str
    """Labeled shards of the same classes to evaluate on, as for `--validation`."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "transfer":
            raise ValueError(f"must consist of letters, digits, _ and -, and not be 'transfer': {name!r}")
        return name


class TransferSets(Settings):
    """The content of the file."""

    sets: tuple[TransferSet, ...]
    """The datasets, in the order of the table."""

    @field_validator("sets")
    @classmethod
    def _distinct(cls, sets: tuple[TransferSet, ...]) -> tuple[TransferSet, ...]:
        if not sets:
            raise ValueError("names no dataset")
        names = [one.name for one in sets]
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"several sets have the name {twice[0]!r}")
        return sets


def read_transfer_sets(path: Path) -> tuple[TransferSet, ...]:
    """Read the datasets of a file. Raises a UserError if there is no such file, or it is not valid."""
    example = (
        "write it like examples/transfer.yaml: a list `sets` whose entries have name, train and validation"
    )
    if not path.is_file():
        raise UserError("there is no such file", where=path, fix=example)
    try:
        return TransferSets.model_validate(read_yaml(path)).sets
    except ValidationError as error:
        lines = [f"  - {_problem(one)}" for one in error.errors()]
        raise UserError(
            "\n".join(["is not a valid list of datasets:", *lines]), where=path, fix=example
        ) from None


def _problem(error: Mapping[str, Any]) -> str:
    key = ".".join(map(str, error["loc"]))
    what = "is not a known key" if error["type"] == "extra_forbidden" else problem_of(error)
    return f"{key}: {what}" if key else what


def evaluate_transfer(job: EvalJob, file: Path, nproc: int) -> int:
    """Evaluate on each dataset of a file, and write and print a summary.

    Each dataset has its own file of results. The summary is written after each of them. A dataset that is in it with
    the same weights, indexes and evaluators is not evaluated again. If a dataset fails, the others are evaluated all
    the same. Each runs in processes of its own.

    Args:
        job: what to evaluate, and with which evaluators.
        file: the file of datasets.
        nproc: processes on this machine.

    Returns 0 if all datasets were evaluated, 1 if one failed, or the exit code after a signal asked to stop.

    Raises:
        UserError: the file or the backbone does not exist or is not valid, or the results cannot be written.
    """
    sets = read_transfer_sets(file)
    place = job.place.with_name(f"{job.place.stem}.transfer.json")
    require_writable(place)
    trained = load_backbones(job.source)
    facts: dict[str, Any] = {
        "source": job.source_name,
        "weights": fingerprint(trained.backbones),
        "backbone": job.backbone,
        "evaluators": job.evaluators.model_dump(mode="json"),
    }
    settings = trained.recipe.data
    del trained  # its memory is needed by the processes that evaluate
    known = _finished_before(place, facts)
    done, failed = dict[str, Any](), list[str]()
    for number, one in enumerate(sets, 1):
        title = f"set {number} of {len(sets)}: {one.name}"
        try:
            indexes = _indexes(one, settings)
            before = known.get(one.name, {})
            if {key: before.get(key) for key in indexes} == indexes:
                print(f"{title} is already evaluated", flush=True)
                done[one.name] = before
                continue
            print(title, flush=True)
            out = job.place.with_name(f"{job.place.stem}.{one.name}.json")
            own = {"train": one.train, "validation": one.validation, "out": out}
            code = run_in_processes(job.model_copy(update=own), nproc)
            if code in STOPPED:
                print("stopped. The results so far are saved", file=sys.stderr)
                return code
            found = read_results(out) if code == 0 else None
        except UserError as error:
            print_error(error)
            found = None
        if found is None:
            failed.append(one.name)
            continue
        done[one.name] = {**indexes, "images": found["images"], "backbones": found["backbones"]}
        _write(place, facts, known | done)
    summary = {one.name: done[one.name] for one in sets if one.name in done}
    if summary:
        _write(place, facts, summary)
        plain_console().print(_table(summary))
        print(f"wrote {place}", flush=True)
    if failed:
        print_error(
            UserError(
                f"{len(failed)} of {len(sets)} datasets failed: {', '.join(failed)}",
                where=file,
                fix="the reasons are above. Solve them and run the same command again",
            )
        )
    return int(bool(failed))


def _indexes(one: TransferSet, settings: DataSettings) -> dict[str, str]:
    """Return what identifies the content of a dataset."""
    train, validation = (ShardSet.open(path, settings) for path in (one.train, one.validation))
    return {"train_index": train.fingerprint, "validation_index": validation.fingerprint}


def _finished_before(place: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the datasets of an earlier summary with the same facts, by name."""
    try:
        found = json.loads(place.read_text())
        same = all(found[key] == value for key, value in facts.items() if key != "source")
        return dict(found["sets"]) if same else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(place: Path, facts: dict[str, Any], sets: dict[str, Any]) -> None:
    content = {**facts, "sets": sets, "mean": _means(sets)}
    write_whole(place, (json.dumps(content, indent=2) + "\n").encode())


def _means(sets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the mean over the datasets by backbone and evaluator, of those evaluators that all datasets have."""
    first, *others = (one["backbones"] for one in sets.values())
    means: dict[str, dict[str, float]] = {}
    for backbone, evaluated in first.items():
        for evaluator in evaluated:
            results = [one.get(backbone, {}).get(evaluator) for one in (first, *others)]
            if all(results):
                means.setdefault(backbone, {})[evaluator] = mean(main_figure(result) for result in results)
    return means


def _table(sets: dict[str, Any]) -> Table:
    """Return a table with a row for each dataset and backbone, a column for each evaluator, and the means."""
    means = _means(sets)
    evaluators = list(
        dict.fromkeys(e for one in sets.values() for found in one["backbones"].values() for e in found)
    )
    table = Table(
        *("set", "backbone", *evaluators),
        title="top-1 %, of retrieval mAP %, of robustness mean corruption error %",
    )
    for name, one in sets.items():
        for backbone, found in one["backbones"].items():
            figures = (main_figure(found[e]) if e in found else None for e in evaluators)
            table.add_row(name, backbone, *(percent(figure, unit=False) for figure in figures))
    table.add_section()
    for backbone, figures_of in means.items():
        shown = (percent(figures_of.get(evaluator), unit=False) for evaluator in evaluators)
        table.add_row(f"mean of {len(sets)}", backbone, *shown)
    return table
