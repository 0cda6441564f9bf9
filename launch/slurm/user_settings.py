"""Each user's own defaults, under those of every recipe: partition, account and the like."""

import os
from pathlib import Path
from typing import Any

import yaml

from data_pipelines.errors import UserError
from trainer.config.schema import parse


def slurm_defaults() -> dict[str, Any]:
    """`{"slurm": …}` of the user's file `all4one/slurm.yaml` in XDG_CONFIG_HOME or ~/.config; empty without one.

    Raises:
        UserError: the file cannot be read, or says what is no setting.
    """
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    path = Path(folder).expanduser() / "all4one" / "slurm.yaml"
    try:
        values = {"slurm": yaml.safe_load(path.read_text()) or {}}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read as YAML: {error}", where=path, fix="mend the file") from None
    parse(values, where=str(path))
    return values
