"""The settings of a run as they are in its folder. The schema, which would check them, loads torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from data_pipelines.errors import UserError
from data_pipelines.yaml_reader import problem_of

if TYPE_CHECKING:
    from trainer.config.schema import Config

_FIX = "restore the file from a backup"
_PARTS = ("backbone", "data", "eval", "method", "metrics", "train")
_ADDED = {"backbone": {"pretrained": False, "init": None}}
"""Settings that the report reads and that runs of earlier versions lack."""
# A page shows 200 runs. libyaml reads them in a fraction of the time that YAML 1.2 takes.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Section:
    """Nested settings as attributes. A setting that is absent raises an AttributeError."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(
            {str(k): _Section(v) if isinstance(v, Mapping) else v for k, v in values.items()}
        )


def read_settings(path: Path) -> dict[str, Any]:
    """Return the nested settings in a run's config.yaml.

    Raises:
        UserError: the file cannot be read, or it is not the configuration of a run.
    """
    try:
        found = yaml.load(path.read_bytes(), _Loader)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path.name, fix=_FIX) from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"is not valid YAML: {problem_of(error)}", where=path.name, fix=_FIX) from None
    if not isinstance(found, dict) or not all(isinstance(found.get(part, {}), dict) for part in _PARTS):
        raise UserError("is not the configuration of a run", where=path.name, fix=_FIX)
    return found


def as_config(values: Mapping[str, Any]) -> "Config":
    """Return settings for the tables of the report, which read a few of them by name."""
    whole = {part: {} for part in _PARTS} | {
        key: {**_ADDED.get(key, {}), **value} if isinstance(value, Mapping) else value
        for key, value in values.items()
    }
    return cast("Config", _Section(whole))
