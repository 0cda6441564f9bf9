"""Each user's own defaults, under those of every recipe: partition, account and the like."""

from typing import Any

import yaml
from platformdirs import user_config_path

from data_pipelines.errors import UserError
from trainer.config.schema import parse


def slurm_defaults() -> dict[str, Any]:
    """`{"slurm": …}` of the user's file `all4one/slurm.yaml` in XDG_CONFIG_HOME or ~/.config; empty without one.

    Raises:
        UserError: the file cannot be read, or says what is no setting.
    """
    path = user_config_path("all4one") / "slurm.yaml"
    try:
        values = {"slurm": yaml.safe_load(path.read_text()) or {}}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read as YAML: {error}", where=path, fix="mend the file") from None
    parse(values, where=str(path))
    return values
