"""What a configuration makes a run learn, apart from how it is computed: what a resume must not change."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings
from trainer.config.schema import Config, dump, flat

MUTABLE_ON_RESUME = (
    "description",
    "run.name",
    "run.folder",
    "run.tags",
    "data.train",
    "data.validation",
    "data.cache",
    "data.cache_bytes",
    "data.prefetch_shards",
    "data.read_ahead",
    "data.allow_pipe",
    "data.decode_threads",
    "data.prefetch",
    "data.max_bad_fraction",
    "data.eval_resize",
    "parallel.torch_threads",
    "parallel.zero_stage",
    "parallel.compile",
    "backbone.activation_checkpointing",
    "checkpoint",
    "eval",
    "metrics",
    "guard",
    "slurm",
)
"""Settings that do not change what is learned, but for `guard`, which says what to do with broken steps. All others
must be the same on resume; the sets that `data.train` and `data.validation` name are compared by content."""

DEFAULTS_BEFORE_ADDITION = [
    ("backbone.init", None),
    ("backbone.init_partial", False),
    ("method.symmetric", True),
    ("method.queue_views", "first"),
]
"""Settings that the first checkpoints knew nothing of, with the values that these were made with."""


def training_config(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned, by dotted key."""
    return {key: value for key, value in flat(dump(config)) if not _is_mutable(key)}


def fingerprint(config: Config) -> str:
    """Hash of the settings that decide what is learned.

    Older checkpoints stay of use: settings are hashed under their first names, and a setting that was added later
    counts only if it differs from what every run did before.
    """
    now, first = flat(dump(config)), flat(_under_first_names(config, dump(config)))
    values = {
        key: value
        for (current, _), (key, value) in zip(now, first, strict=True)
        if not _is_mutable(current) and (key, value) not in DEFAULTS_BEFORE_ADDITION
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _is_mutable(key: str) -> bool:
    return f"{key}.".startswith(tuple(f"{mutable}." for mutable in MUTABLE_ON_RESUME))


def _under_first_names(settings: Settings, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """What `dump` gives of settings, in the same order, under the names that version 0.1 gave them."""
    first = {new: old for old, new in settings.renamed().items()}
    return {first.get(key, key): _first_names_below(getattr(settings, key), dumped[key]) for key in dumped}


def _first_names_below(value: Any, dumped: Any) -> Any:
    if isinstance(value, Settings):
        return _under_first_names(value, dumped)
    if isinstance(value, tuple):
        return [_first_names_below(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def refuse_changed_training(before: Config, after: Config) -> None:
    """Raise a UserError with the differences where a resumed run would learn something else."""
    old, new = training_config(before), training_config(after)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: {old.get(key)} -> {new.get(key)}" for key in changed)
        raise UserError(
            f"these settings would change what the run learns:\n{lines}",
            fix="resume without them, or start a new run with `all4one train`",
        )
