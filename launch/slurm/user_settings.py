"""Each user's default SLURM settings, such as partition and account. Every recipe overrides them."""

from typing import Any

from platformdirs import user_config_path

from data_pipelines.yaml_reader import read_yaml
from trainer.config.schema import parse


def slurm_defaults() -> dict[str, Any]:
    """Read the user's file `all4one/slurm.yaml` in XDG_CONFIG_HOME or ~/.config. Returns `{"slurm": …}`, or an empty
    dictionary if there is no file.

    Raises:
        UserError: the file cannot be read, or holds something that is not a setting.
    """
    path = user_config_path("all4one") / "slurm.yaml"
    if not path.exists():
        return {}
    values = {"slurm": read_yaml(path) or {}}
    parse(values, where=str(path))
    return values
