"""The settings that decide what a run learns. A resume must not change them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.settings import Settings
from trainer.config.recipes import flat
from trainer.config.schema import Config, dump

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
    "parallel.cudnn_benchmark",
    "train.deterministic",
    "backbone.activation_checkpointing",
    "checkpoint",
    "eval",
    "metrics",
    "guard",
    "notify",
    "slurm",
)
"""Settings that may change on resume, because they do not affect what is learned.

The exception is `guard`, which sets how broken steps are handled. All other settings must stay the same. The datasets
of `data.train` and `data.validation` are compared by content, a mix of sets also by its weights.
"""

DEFAULTS_BEFORE_ADDITION = [
    ("backbone.init", None),
    ("backbone.init_partial", False),
    ("method.symmetric", True),
    ("method.queue_views", "first"),
    ("method.neighbor_space", "projector"),
    ("method.min_neighbors", 0),
    ("method.queue_refresh", 0.0),
    ("method.neighbor_softness", 0.0),
    ("method.centroid_pooling", "transformer"),
    ("method.classifier_views", "first"),
    ("method.variance_epsilon", 0.0),
    ("method.loss_scale", 1.0),
    ("method.queue_size", 0),
    ("method.queue_from_step", 0),
    ("optim.peak_lr_at", "after_warmup"),
    ("data.gpu_decoder.hybrid_huffman_threshold", 1_000_000),
    ("data.classes", None),
    ("data.max_samples", 0),
    ("data.min_side", 0),
]
"""Settings that the first checkpoints did not have, with the values that those checkpoints were trained with."""


def training_config(config: Config) -> dict[str, Any]:
    """Return the settings that decide what is learned, by dotted key."""
    return {key: value for key, value in flat(dump(config)) if not _is_mutable(key)}


def fingerprint(config: Config) -> str:
    """Return a hash of the settings that decide what is learned.

    The hash stays compatible with older checkpoints. Settings are hashed under their first names, and a setting that
    was added later counts only if it differs from the earlier behavior.
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
    """Return what `dump` gives, in the same order, under the names of version 0.1."""
    first = {new: old for old, new in settings.renamed().items()}
    return {first.get(key, key): _first_names_below(getattr(settings, key), dumped[key]) for key in dumped}


def _first_names_below(value: Any, dumped: Any) -> Any:
    if isinstance(value, Settings):
        return _under_first_names(value, dumped)
    if isinstance(value, tuple):
        return [_first_names_below(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def refuse_changed_training(before: Config, after: Config) -> None:
    """Raise a UserError that lists the differences if a resumed run would learn something else."""
    old, new = training_config(before), training_config(after)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: {old.get(key)} -> {new.get(key)}" for key in changed)
        raise UserError(
            f"these settings would change what the run learns:\n{lines}",
            fix="resume without them, or start a new run with `all4one train`",
        )
