"""`all4one config explain`: what a setting means, from the schema, so that it is never out of date."""

import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from data_pipelines.errors import UserError
from data_pipelines.masking import masked_values
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
    *parents, leaf = current_key(key, Config).split(".")
    field = fields_at(parents, values, Config).get(leaf)
    if field is None:
        raise UserError(f"there is no setting {key!r}", fix=_nearest(key, values))
    name = ".".join([*parents, leaf])
    print(f"{name}: {_text(field)}")
    if inner := fields_at([*parents, leaf], values, Config):
        for setting, described in inner.items():
            print(f"  {name}.{setting}: {_text(described).splitlines()[0]}")
        return
    print(f"takes: {_type(field.annotation)}{_limits(field)}")
    print(
        f"default: {'none, it must be set' if field.is_required() else field.get_default(call_default_factory=True)}"
    )
    if recipe is not None:
        print(f"in {recipe}: {_value(values, [*parents, leaf])}")


def _nearest(key: str, values: Mapping[str, Any]) -> str:
    known = list(all_keys(values, Config))
    same_name = [other for other in known if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = same_name or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "`all4one config show RECIPE` lists all settings"


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "a section of settings").split())


def _type(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(str(choice) for choice in arguments)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type, arguments)))
    if origin in (tuple, list):
        items = [_type(argument) for argument in arguments if argument is not Ellipsis]
        return f"a list of {items[0]}" if len(set(items)) == 1 else f"a list: {', '.join(items)}"
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}
    return words.get(
        annotation, "a path" if "Path" in str(annotation) else getattr(annotation, "__name__", "settings")
    )


def _limits(field: FieldInfo) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [
        f"{text} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, text in words.items()
        if isinstance(getattr(limit, name, None), int | float)
    ]
    return f", {' and '.join(found)}" if found else ""


def _value(values: Any, path: list[str]) -> Any:
    for part in path:
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values
