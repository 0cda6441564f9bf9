"""The facts of a run for the report, read once from its folder.

Loading this module loads no torch, because `all4one serve` shows the same tables. The schema of the settings, and so
everything that reads them, does load it.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yaml import YAMLError

from data_pipelines.errors import UserError
from data_pipelines.masking import masked_values
from launch.evaluate.results import merged, mismatches
from launch.status.run_status import Status, status
from trainer.config.recipes import flat, merge, read_recipe
from trainer.runs.records import read_records
from trainer.runs.run_folder import RunFolder, open_run

if TYPE_CHECKING:
    from trainer.config.schema import Config

BASE_RECIPE = "base"
"""The recipe that a run's settings are compared with."""
RESULT_KEYS = frozenset({"backbones", "images", "checkpoint", "validation"})
"""Keys that a file of results contains at least."""
NAMING_SETTINGS = ("description", "run.name", "run.folder", "run.tags")
"""Settings that only name or describe a run."""


@dataclass(frozen=True)
class RunFacts:
    """A run as read from its folder."""

    run: RunFolder
    name: str
    """Name of its folder, with parent folders if several runs share the name."""
    config: "Config"
    status: Status
    records: Sequence[Mapping[str, Any]]
    """All records of metrics.jsonl, in the order of steps."""
    evaluated: Mapping[str, Any] | None
    """Results of `all4one eval`. None: there are none."""
    versions: Mapping[str, str]
    """Versions of the packages that wrote the newest checkpoint. Empty without a checkpoint."""

    def newest_record(self, name: str) -> Mapping[str, Any] | None:
        """Return the record of the last step with this value, or None if there is none."""
        return max(
            (r for r in reversed(self.records) if name in r), key=lambda r: int(r["step"]), default=None
        )

    @property
    def backbones(self) -> dict[str, Mapping[str, Any]]:
        """Results of `all4one eval` by backbone and evaluator."""
        return dict(self.evaluated["backbones"]) if self.evaluated else {}


def read_facts(runs: Sequence[RunFolder]) -> list[RunFacts]:
    """Return the facts of each run.

    Raises:
        UserError: a folder is not a run, or its settings or records cannot be read.
    """
    return [_read(run, name) for run, name in zip(runs, short_names([r.path for r in runs]), strict=True)]


def try_read_facts(runs: Sequence[RunFolder]) -> tuple[list[RunFacts], list[str]]:
    """Return the facts of the runs that can be read, and the reason for each run that cannot."""
    found, unread = [], []
    for run, name in zip(runs, short_names([r.path for r in runs]), strict=True):
        try:
            found.append(_read(run, name))
        except UserError as error:
            unread.append(f"{name}: {error.what}")
    return found, unread


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest path ends that tell the paths apart: the folder name alone if it is unique."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) == len(names):
        return names
    resolved = [path.resolve() for path in paths]
    above = Path(os.path.commonpath([path.parent for path in resolved]))
    return [str(path.relative_to(above)) for path in resolved]


def differences_from_base(config: "Config") -> list[tuple[str, Any, Any]]:
    """Return settings that differ from the base recipe, with the value of the base and of the run.

    A method, optimizer or backbone with another name is compared with its own defaults.
    """
    from trainer.config.schema import dump

    values, recipe = masked_values(dump(config)), read_recipe(BASE_RECIPE)
    named = {part: {"name": values[part]["name"]} for part in ("method", "optim", "backbone")}
    resolved = _resolved(merge(recipe, named))
    before, found = dict(settings_by_key(resolved)), dict(settings_by_key(values))
    before |= {f"{part}.name": by["name"] for part, by in _resolved(recipe).items() if part in named}
    return [(key, before.get(key), value) for key, value in found.items() if before.get(key) != value]


def differences_between(several: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Return settings that differ between runs, with the value of each run. None: the run has no such setting.

    Args:
        several: the nested settings of each run.
    """
    each = [dict(settings_by_key(masked_values(values))) for values in several]
    keys = dict.fromkeys(key for values in each for key in values)
    rows = [(key, [values.get(key) for values in each]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values)]


def _resolved(values: Mapping[str, Any]) -> dict[str, Any]:
    from trainer.config.schema import dump, parse

    return dump(parse(values, where=BASE_RECIPE))


def settings_by_key(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings by dotted key, including those of list items, without settings that only name a run."""
    for key, value in flat(values):
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            numbered = {f"{key}.{place}": item for place, item in enumerate(value)}
            yield from flat(numbered)
        elif key not in NAMING_SETTINGS:
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
            evaluated=read_evaluated(run),
            versions=_versions(run),
        )
    except (OSError, YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"the records of this run cannot be read: {error}",
            where=run.path,
            fix="repair or restore the files",
        ) from None


def _versions(run: RunFolder) -> Mapping[str, str]:
    from trainer.checkpoints.store import CheckpointStore

    try:
        state = CheckpointStore(run.checkpoints).newest_state()
    except ValueError:  # the checkpoint was not verified and may be damaged
        return {}
    return state["versions"] if state and "versions" in state else {}


def read_evaluated(run: RunFolder) -> Mapping[str, Any] | None:
    """Return the results of a study's own evaluator, which are those in its table.

    Results of `all4one eval` are included if they have the same weights and datasets, or are the only ones.
    """
    several = []
    for name in ("study_eval.json", "eval.json"):
        try:
            found = json.loads((run.path / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.keys() >= RESULT_KEYS:
            several.append(found)
    if not several:
        return None
    first = several[0]
    return {**first, "backbones": merged(*(f["backbones"] for f in several if not mismatches(f, first)))}
