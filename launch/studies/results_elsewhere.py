"""Results of a study's runs from other places: the `study.json` that lists them, and whether they fit the study."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from data_pipelines.errors import UserError
from launch.studies.plan import Cell, Study
from trainer.config.schema import Config, dump
from trainer.runs.components import TrainSet, open_train_set, open_validation_set
from trainer.runs.records import read_ledger
from trainer.runs.run_folder import RunFolder

REPORT = "study.json"
"""File with the results in the folder of a study."""
SETS = ("data", "validation")
"""Names in `study.json` and in the ledger for the fingerprints of a run's training and validation set."""
FACTS = ("device_hours", "settings", *SETS)
"""What `study.json` lists for each run besides its choices, its seed and its score."""
_WORDS = {"data": "training", "validation": "validation"}
_NAMED_BY = {"data": "data.train", "validation": "data.validation"}
_DECIDED_BY = {
    "data": ("train", "classes", "min_side", "max_samples"),
    "validation": ("validation", "classes"),
}
"""Settings of the data that decide the samples of each set."""
_LEAVE_OUT = "or leave the file out"


class _Entry(BaseModel):
    """One of the runs in a file. The values under other names are its choices."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    seed: int = Field(ge=0, lt=2**31)
    score: float | None = Field(ge=0, le=100)
    device_hours: float | None = Field(None, ge=0)
    settings: str | None = None
    data: str | None = None
    validation: str | None = None


class _Report(BaseModel):
    """The parts of a `study.json` that count elsewhere. Version 0.1 wrote `judge`."""

    model_config = ConfigDict(strict=True)

    evaluator: str = Field(validation_alias=AliasChoices("evaluator", "judge"))
    backbone: str
    compare: str
    runs: list[_Entry]


@dataclass(frozen=True)
class Result:
    """A finished run of another place."""

    score: float
    """Accuracy in percent."""
    device_hours: float
    settings: str
    """Hash of the settings that it was trained and evaluated with."""
    sets: Mapping[str, str | None]
    """Fingerprints of its training and its validation set, by their names in `SETS`. None: it is not known."""
    file: Path
    """The `study.json` that lists it."""


def read_results(asked: Study, files: Sequence[Path]) -> dict[Cell, Result]:
    """Return the runs that have a score in one of these files. If several files list a run, the first one counts.

    Raises:
        UserError: a file cannot be read, is not a result file, does not fit the study, or lacks what an earlier version
            did not write, or two files differ in a run.
    """
    found: dict[Cell, Result] = {}
    for file in files:
        for cell, result in _results_in(asked, file):
            known = found.setdefault(cell, result)
            if (known.score, known.settings) != (result.score, result.settings):
                raise UserError(
                    f"{known.file} and {file} differ in the run {cell.name}:\n"
                    f"  - the score {known.score} with the settings {known.settings!r}\n"
                    f"  - the score {result.score} with the settings {result.settings!r}",
                    fix="leave out the file whose run should not count",
                )
    return found


def _results_in(asked: Study, file: Path) -> Iterator[tuple[Cell, Result]]:
    """Yield the runs of one file that have a score."""
    report = _read(file)
    if taken := sorted(asked.grid.keys() & set(FACTS)):
        raise UserError(
            f"the study has an axis {taken[0]!r}, but --results needs that name for a fact about each run",
            fix="use a copy of the study in which the axis has another name",
        )
    for name in ("evaluator", "backbone", "compare"):
        if (theirs := getattr(report, name)) != (ours := getattr(asked, name)):
            raise UserError(
                f"its results are of a study with {name}={theirs!r}, but this study has {name}={ours!r}",
                where=file,
                fix=f"undo the change to the study, {_LEAVE_OUT}",
            )
    for entry in report.runs:
        if entry.score is None:
            continue
        cell = _cell(asked, entry, file)
        if entry.settings is None or entry.device_hours is None:
            raise UserError(
                f"it lacks the settings or the device-hours of the run {cell.name}, which earlier versions do not list",
                where=file,
                fix="run the study with --show in its own place with this version, which writes the file again",
            )
        sets = {name: getattr(entry, name) for name in SETS}
        yield cell, Result(entry.score, entry.device_hours, entry.settings, sets, file)


def _read(file: Path) -> _Report:
    try:
        return _Report.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=file, fix="give the study.json of the other place"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"is not a result file of `all4one study`: {f'{place}: ' if place else ''}{first['msg']}",
            where=file,
            fix="run the study with --show in its own place to write the file again",
        ) from None


def _cell(asked: Study, entry: _Entry, file: Path) -> Cell:
    """Return the run of the study that an entry is about."""
    choices = entry.model_extra or {}
    for axis in {**asked.grid, **choices}:
        if (choice := choices.get(axis)) not in list(asked.grid.get(axis, ())):
            raise UserError(
                f"it lists a run with {f'{axis}={choice}'!r}, which the grid of this study does not have",
                where=file,
                fix=f"use the study that this file is of, {_LEAVE_OUT}",
            )
    if entry.seed not in asked.seeds and not (asked.is_sequential and entry.seed > max(asked.seeds)):
        raise UserError(
            f"it lists a run with the seed {entry.seed}, which this study does not have",
            where=file,
            fix=f"add the seed to the study, {_LEAVE_OUT}. A study with --device-hours takes all larger seeds",
        )
    return Cell(tuple((axis, choices[axis]) for axis in asked.grid), entry.seed)


def lost_runs(asked: Study, folder: Path, scored: Iterable[Cell]) -> list[str]:
    """Return the names of runs that the last report of a folder gives a score, and that would leave the next report.

    Args:
        asked: the study.
        folder: folder of the study. A report that cannot be read lists no runs.
        scored: runs that have a score now. Runs with a folder are not lost either.
    """
    try:
        entries = _read(folder / REPORT).runs
    except UserError:
        return []
    if asked.grid.keys() & set(FACTS):
        return []
    evaluated = [one for one in entries if one.score is not None]
    listed = [Cell(tuple((one.model_extra or {}).items()), one.seed).name for one in evaluated]
    known = {cell.name for cell in scored}
    return [name for name in listed if name not in known and not RunFolder(folder / name).config.exists()]


def sets_of(run: RunFolder) -> dict[str, str | None]:
    """Return the fingerprints of the sets of a run, by their names in `SETS`. None: its ledger does not have it."""
    newest: dict[str, str | None] = dict.fromkeys(SETS)
    for record in read_ledger(run.ledger):
        if record["event"] == "ready":  # those of earlier versions lack a name
            newest |= {name: record[name] for name in SETS if name in record}
    return newest


def refuse_other_settings(results: Mapping[Cell, Result], settings: Mapping[Cell, str]) -> None:
    """Raise a UserError if a run elsewhere had other settings than the study has now.

    Args:
        results: runs elsewhere.
        settings: the hash of the settings of each run of the study.
    """
    for cell, result in results.items():
        if result.settings != settings[cell]:
            raise UserError(
                f"the run {cell.name} was started with settings that differ from the study's current settings",
                where=result.file,
                fix=f"undo the changes to the study, {_LEAVE_OUT}",
            )


def refuse_mixed_sets(
    results: Mapping[Cell, Result], here: Mapping[Cell, RunFolder], configs: Mapping[Cell, Config]
) -> None:
    """Raise a UserError if runs for which the study names one set had different ones in two places.

    Args:
        results: runs elsewhere.
        here: runs in the study's folder that count there.
        configs: settings of both.
    """
    first: dict[str, Result] = {}
    for cell, result in results.items():
        for name, found in result.sets.items():
            if found is not None:
                known = first.setdefault(_named(configs[cell], name), result)
                if known.sets[name] != found:
                    raise _mixed(name, known.file, result.file)
    for cell, run in here.items() if first else ():
        for name, found in sets_of(run).items():
            elsewhere = first.get(_named(configs[cell], name))
            if elsewhere is not None and found not in (None, elsewhere.sets[name]):
                raise _mixed(name, elsewhere.file, run.path)


def _mixed(name: str, one: Path, other: Path) -> UserError:
    return UserError(
        f"the runs of {one} and of {other} had different {_WORDS[name]} sets",
        fix="leave out the file whose runs should not count",
    )


def refuse_other_sets(results: Mapping[Cell, Result], configs: Mapping[Cell, Config]) -> None:
    """Raise a UserError if a set is not the one that runs elsewhere had.

    A set that cannot be opened is not compared, because the checks of the runs that need it report it.
    """
    checked = set()
    for cell, result in results.items():
        for name, known in result.sets.items():
            named = _named(configs[cell], name)
            if known is None or named in checked:
                continue
            checked.add(named)
            try:
                own = _open(configs[cell], name)
            except UserError:
                continue
            if own is not None and own.fingerprint != known:
                raise UserError(
                    f"the {_WORDS[name]} set is not the one of the run {cell.name} in {result.file}",
                    where=own.folder,
                    fix=f"set {_NAMED_BY[name]} to the same set, {_LEAVE_OUT}",
                )


def _open(config: Config, name: str) -> TrainSet | None:
    train_set = open_train_set(config.data)
    return train_set if name == "data" else open_validation_set(config.data, train_set)


def _named(config: Config, name: str) -> str:
    """Return the settings that name a set."""
    data = dump(config)["data"]
    return json.dumps([name, *(data[key] for key in _DECIDED_BY[name])])
