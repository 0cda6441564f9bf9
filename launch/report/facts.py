"""What a report says of a run: its folder, read once. Makes nothing and loads no torch beyond its settings."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaml import YAMLError

from data_pipelines.errors import UserError
from launch.evaluate.results import merged, mismatches
from launch.status.run_status import Status, status
from trainer.checkpoints.store import CheckpointStore
from trainer.config.recipes import merge, read_recipe
from trainer.config.schema import Config, dump, flat, parse
from trainer.runs.run_folder import RunFolder, open_run, read_records

BASE = "base"
"""The recipe whose settings a run's are compared with."""
JUDGED = frozenset({"backbones", "images", "checkpoint", "validation"})
"""What a file of results says at least."""
NAMES = ("description", "run.name", "run.folder", "run.tags")
"""Settings that say what a run is called, not what it does."""


@dataclass(frozen=True)
class RunFacts:
    """A run as its folder tells it."""

    run: RunFolder
    name: str
    """Its folder's name, with those above it where several runs share it."""
    config: Config
    status: Status
    records: Sequence[Mapping[str, Any]]
    """All of metrics.jsonl, in the order of steps."""
    judged: Mapping[str, Any] | None
    """What `all4one eval` found; None where it was not asked."""
    versions: Mapping[str, str]
    """Of the packages that wrote the newest checkpoint; empty without one."""

    def newest(self, name: str) -> float | None:
        """The last value on record under a name, None where there is none."""
        return next((r[name] for r in reversed(self.records) if name in r), None)

    @property
    def backbones(self) -> dict[str, Mapping[str, Any]]:
        """Results of `all4one eval` by backbone and judge."""
        return dict(self.judged["backbones"]) if self.judged else {}


def read_facts(runs: Sequence[RunFolder]) -> list[RunFacts]:
    """Facts of each run.

    Raises:
        UserError: a folder that is not one of a run, or settings or records that cannot be read.
    """
    return [_read(run, name) for run, name in zip(runs, short_names([r.path for r in runs]), strict=True)]


def readable(runs: Sequence[RunFolder]) -> tuple[list[RunFacts], list[str]]:
    """Facts of the runs that can be read, and for each of the others why it cannot."""
    found, unread = [], []
    for run, name in zip(runs, short_names([r.path for r in runs]), strict=True):
        try:
            found.append(_read(run, name))
        except UserError as error:
            unread.append(f"{name}: {error.what}")
    return found, unread


def short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of paths that tell them apart; a folder's own name where that does."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    resolved = [path.resolve() for path in paths]
    above = Path(os.path.commonpath([path.parent for path in resolved]))
    return [str(path.relative_to(above)) for path in resolved]


def differences(config: Config) -> list[tuple[str, Any, Any]]:
    """Settings that are not those of the base recipe, with the base's value and the run's.

    A method, optimizer or backbone of another name is compared with that one's own defaults.
    """
    values, recipe = dump(config), read_recipe(BASE)
    named = {part: {"name": values[part]["name"]} for part in ("method", "optim", "backbone")}
    before, found = dict(_entries(_resolved(merge(recipe, named)))), dict(_entries(values))
    before |= {f"{part}.name": by["name"] for part, by in _resolved(recipe).items() if part in named}
    return [(key, before.get(key), value) for key, value in found.items() if before.get(key) != value]


def disagreements(configs: Sequence[Config]) -> list[tuple[str, list[Any]]]:
    """Settings that are not the same in all runs, with each run's value, None where it has no such setting."""
    each = [dict(_entries(dump(config))) for config in configs]
    keys = dict.fromkeys(key for values in each for key in values)
    rows = [(key, [values.get(key) for values in each]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def _resolved(values: Mapping[str, Any]) -> dict[str, Any]:
    return dump(parse(values, where=BASE))


def _entries(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings by dotted key, those of a list's items too; without what only names a run."""
    for key, value in flat(values):
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            numbered = {f"{key}.{place}": item for place, item in enumerate(value)}
            yield from flat(numbered)
        elif key not in NAMES:
            yield key, value


def _read(run: RunFolder, name: str) -> RunFacts:
    run = open_run(run.path)
    try:
        return RunFacts(
            run=run,
            name=name,
            config=run.read_config(),
            status=status(run, None, None),
            records=read_records(run.metrics),
            judged=_judged(run),
            versions=_versions(run),
        )
    except (OSError, YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"what it has on record cannot be read: {error}", where=run.path, fix="mend or restore its files"
        ) from None


def _versions(run: RunFolder) -> Mapping[str, str]:
    try:
        state = CheckpointStore(run.checkpoints).newest_state()
    except ValueError:  # a checkpoint that nothing has checked may be damaged
        return {}
    return state["versions"] if state and "versions" in state else {}


def _judged(run: RunFolder) -> Mapping[str, Any] | None:
    """The results of a study's own judge, which are those of its table, and of `all4one eval` where these are of the
    same weights and sets or the only ones.
    """
    several = []
    for name in ("study_eval.json", "eval.json"):
        try:
            found = json.loads((run.path / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.keys() >= JUDGED:
            several.append(found)
    if not several:
        return None
    first = several[0]
    return {**first, "backbones": merged(*(f["backbones"] for f in several if not mismatches(f, first)))}
