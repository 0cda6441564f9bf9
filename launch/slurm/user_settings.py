"""Each user's default SLURM settings, such as partition and account. Every recipe overrides them."""

from typing import Any

import yaml
from platformdirs import user_config_path

from data_pipelines.errors import UserError
from trainer.config.schema import parse


def slurm_defaults() -> dict[str, Any]:
    """Read the user's file `all4one/slurm.yaml` in XDG_CONFIG_HOME or ~/.config. Returns `{"slurm": …}`, or an empty
    dictionary if there is no file.

    Raises:
        UserError: the file cannot be read, or holds something that is not a setting.
    """
    path = user_config_path("all4one") / "slurm.yaml"
    try:
        values = {"slurm": yaml.safe_load(path.read_text()) or {}}
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read as YAML: {error}", where=path, fix="correct the file") from None
    parse(values, where=str(path))
    return values
