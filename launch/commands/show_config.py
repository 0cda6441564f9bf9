"""`all4one config show`: print a resolved configuration and where each value comes from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from data_pipelines.console import plain_console
from data_pipelines.masking import masked_values
from data_pipelines.yaml_writer import dump_yaml
from launch.commands.output_format import OutputFormat
from trainer.config.descriptions import written
from trainer.config.overrides import apply, parse_override
from trainer.config.problems import current_key
from trainer.config.recipes import COMPONENTS, flat, read_chain, with_component_names
from trainer.config.schema import Config, dump, given_settings, load_config


def show(recipe: str, overrides: Sequence[str], output: OutputFormat) -> None:
    """Print every setting with its value and the source of the value: a file, the command line, or the default.

    As YAML or JSON, print the nested values alone. Passwords of URLs are masked.
    """
    nested = masked_values(dump(load_config(recipe, overrides)))
    if output == OutputFormat.YAML:
        print(dump_yaml(nested), end="")
        return
    if output == OutputFormat.JSON:
        print(json.dumps(nested, indent=1))
        return
    values = dict(flat(nested))
    sources = _sources(recipe, overrides)
    table = Table("setting", "value", "from")
    for key, value in values.items():
        table.add_row(key, _shown(value), _source(key, sources))
    plain_console().print(table)


def _sources(recipe: str, overrides: Sequence[str]) -> dict[str, str]:
    """Return the last file that gave each key, or `command line`. A replaced component loses its earlier keys."""
    sources: dict[str, str] = {}
    names: dict[str, str] = {}
    values = dump(load_config(recipe))
    for path, own in read_chain(recipe):
        given = {current_key(key, Config, values): value for key, value in flat(with_component_names(own))}
        _forget_replaced(sources, names, given)
        sources |= dict.fromkeys(given, path.name)
    names |= {part: values[part]["name"] for part in COMPONENTS}  # also those that no recipe names
    parsed = [parse_override(override) for override in overrides]
    given = given_settings(parsed, apply(values, parsed))
    _forget_replaced(sources, names, given)
    return sources | dict.fromkeys(given, "command line")


def _forget_replaced(sources: dict[str, str], names: dict[str, str], given: Mapping[str, Any]) -> None:
    for part in COMPONENTS:
        name = given.get(f"{part}.name")
        if name is None:
            continue
        if part in names and str(name) != names[part]:
            for key in [key for key in sources if key.startswith(f"{part}.")]:
                del sources[key]
        names[part] = str(name)


def _source(key: str, sources: dict[str, str]) -> str:
    """Return the last file that set the key, or set an item of it if the value is a list."""
    matching = [name for name in sources if name == key or name.startswith(f"{key}.")]
    if any(sources[name] == "command line" for name in matching):
        return "command line"
    return sources[matching[-1]] if matching else "default"


def _shown(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "\n".join(", ".join(f"{k}={written(v)}" for k, v in item.items()) for item in value)
    return written(value)
