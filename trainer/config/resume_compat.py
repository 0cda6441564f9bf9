"""What a configuration makes a run learn, apart from how it is computed: what a resume must not change."""

import hashlib
import json
from typing import Any

from data_pipelines.errors import UserError
from trainer.config.schema import Config, dump, flat

MAY_CHANGE_ON_RESUME = (
    "description", "run.name", "run.folder", "run.tags", "data.train", "data.validation", "data.cache",
    "data.cache_bytes", "data.cache_ahead", "data.read_ahead", "data.allow_pipe", "data.threads", "data.prefetch",
    "data.max_bad_fraction", "data.eval_resize", "parallel.threads", "parallel.zero", "parallel.compile",
    "backbone.recompute", "checkpoint", "eval", "metrics", "guard", "slurm",
)  # fmt: skip
"""Settings that do not change what is learned, but for `guard`, which says what to do with broken steps. All others
must be the same on resume; the sets that `data.train` and `data.validation` name are compared by content."""

CAME_LATER = [
    ("backbone.init", None),
    ("backbone.init_partial", False),
    ("method.symmetric", True),
    ("method.queue_views", "first"),
]
"""Settings that the first checkpoints knew nothing of, with the values that these were made with."""


def meaning(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned, by dotted key."""
    free = tuple(f"{key}." for key in MAY_CHANGE_ON_RESUME)
    return {key: value for key, value in flat(dump(config)) if not f"{key}.".startswith(free)}


def fingerprint(config: Config) -> str:
    """Hash of the settings that decide what is learned.

    A setting that came later counts where it is not what all did before it, so that older checkpoints stay of use.
    """
    values = {key: value for key, value in meaning(config).items() if (key, value) not in CAME_LATER}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def refuse_changed_meaning(before: Config, after: Config) -> None:
    """Raise a UserError with the differences where a resumed run would learn something else."""
    old, new = meaning(before), meaning(after)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: {old.get(key)} -> {new.get(key)}" for key in changed)
        raise UserError(
            f"these settings would change what the run learns:\n{lines}",
            fix="resume without them, or start a new run with `all4one train`",
        )
