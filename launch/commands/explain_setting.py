"""`all4one config explain`: what a setting means, from the schema, so that it is never out of date."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from data_pipelines.errors import UserError
from data_pipelines.masking import masked_values
from trainer.config.descriptions import is_choice_of_types, takes, written
from trainer.config.problems import all_keys, current_key, fields_at
from trainer.config.schema import Config, dump, load_config


def explain(key: str, recipe: str | None) -> None:
    """Print what a setting means, what it takes, its default, and its value in a recipe.

    Args:
        key: dotted key of a setting or of a section. Old names are accepted.
        recipe: path or name of a recipe, which selects the method. None: All4One.

    Raises:
        UserError: there is no such setting. The message names the nearest one.
    """
    values = masked_values(dump(load_config(recipe))) if recipe is not None else {"method": {}}
    path = current_key(key, Config, values).split(".")
    field = _field(path, values)
    if field is None:
        raise UserError(f"there is no setting {key!r}", fix=_nearest(key, values))
    # The values come first, because an index may be out of range.
    found = list(_values(values, path)) if recipe is not None else []
    name = ".".join(path)
    print(f"{name}: {_text(field)}")
    if inner := fields_at(path, values, Config):
        for setting, described in inner.items():
            print(f"  {name}.{setting}: {_text(described).splitlines()[0]}")
        if not is_choice_of_types(field.annotation):
            return
    print(f"takes: {takes(field.annotation, field.metadata)}")
    default = field.get_default(call_default_factory=True)
    print(f"default: {'none, it must be set' if field.is_required() else written(default)}")
    for item, value in found:
        print(f"in {recipe}{'' if item == name else f', {item}'}: {written(value)}")


def _field(path: list[str], values: Mapping[str, Any]) -> FieldInfo | None:
    """Return the field at a path. For an item of a list, it is the field of the list."""
    *parents, leaf = path
    field = fields_at(parents, values, Config).get(leaf)
    if field is None and leaf.isdecimal() and parents and fields_at(path, values, Config):
        return _field(parents, values)
    return field


def _nearest(key: str, values: Mapping[str, Any]) -> str:
    known = list(all_keys(values, Config))
    same_name = [other for other in known if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = same_name or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "`all4one config show RECIPE` lists all settings"


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "a section of settings").split())


def _values(values: Any, path: list[str], reached: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of a setting. A path without an index names the setting of each item.

    Raises:
        UserError: a list is too short.
    """
    if not path:
        yield ".".join(reached), values
    elif isinstance(values, Mapping):
        yield from _values(values[path[0]], path[1:], (*reached, path[0]))
    elif not isinstance(values, list):
        return  # one value, where a list of settings is possible
    elif not path[0].isdecimal():
        for position, item in enumerate(values):
            yield from _values(item, path, (*reached, str(position)))
    elif int(path[0]) < len(values):
        yield from _values(values[int(path[0])], path[1:], (*reached, path[0]))
    else:
        raise UserError(
            f"{'.'.join(reached)} has {len(values)} items in this recipe, and no item {path[0]}",
            fix="count from 0, or leave the index out",
        )
