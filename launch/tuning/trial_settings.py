"""The configuration of a trial."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.errors import UserError
from launch.tuning.search import Search
from launch.tuning.search_space import Dimension
from trainer.config.overrides import parse_override
from trainer.config.schema import Config, given_settings, load_config, override
from trainer.runs.run_folder import RunFolder


def config_of_trial(
    search: Search,
    run: RunFolder,
    overrides: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration of a trial.

    Args:
        search: the search.
        run: the run of the trial.
        overrides: `key=value` of the settings that the search varies.
        defaults: nested settings that the recipe overrides.

    Raises:
        UserError: a setting is not valid.
    """
    place = [
        f"run.folder={json.dumps(str(search.folder.absolute()))}",
        f"run.name={json.dumps(run.path.name)}",
    ]
    return load_config(search.asked.recipe, [*search.asked.overrides, *overrides, *place], defaults)


def refuse_unfit(config: Config, metric: str, space: Sequence[Dimension]) -> Config:
    """Check what a search varies and what for, before it begins.

    Args:
        config: configuration of the trials, without what the search varies.
        metric: the metric.
        space: what the search varies.

    Returns a configuration with which the checks before a run also check the metric.

    Raises:
        UserError: the runs would never give the metric, or a value is not valid.
    """
    if not config.eval.every_epochs or config.data.validation is None:
        raise UserError(
            "a search compares trials by their evaluations during training, and these have none",
            fix="set eval.every_epochs to 1 or more, and data.validation to a labeled set",
        )
    given = given_settings(
        [parse_override(f"{one.key}={end}") for one in space for end in one.ends], config.model_dump()
    )
    if moved := sorted(
        key for key in given if key.startswith(("run.", "slurm.", "eval.", "data.validation"))
    ):
        raise UserError(f"a search cannot vary {', '.join(moved)}, because all trials have to share it")
    for one in space:
        for end in one.ends:
            override(config, [f"{one.key}={end}"], where=f"--search {one.key}={one.text}")
    return override(config, [f"checkpoint.keep_best={metric}"], where="--metric")
