"""What a setting or an option takes, in words: its type and its limits. And values as a recipe has them.

The commands and the reference share both.
"""

import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from data_pipelines.urls import Url

_PLAIN: Mapping[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    Url: "a URL",
    type(None): "null",
    Any: "any value",
}
_LIMITS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "with a length of at least {}",
    "max_length": "with a length of at most {}",
    "pattern": "matching `{}`",
}
"""Attributes of the rules of pydantic, with their words."""


def takes(annotation: Any, rules: Iterable[Any] = ()) -> str:
    """Return what a value may be: `an integer, at least 8 and at most 1024`.

    Args:
        annotation: the type.
        rules: what limits the value, such as the metadata of a pydantic field.
    """
    return ", ".join(filter(None, (_type(annotation), limits(rules))))


def limits(rules: Iterable[Any]) -> str:
    """Return the limits of a value in words. Empty: there are none."""
    return " and ".join(
        words.format(_number(limit))
        for rule in rules
        for name, words in _LIMITS.items()
        if (limit := getattr(rule, name, None)) is not None
    )


def written(value: Any, *, digits: int | None = None) -> str:
    """Return a value as a recipe has it: `true`, `null`, `[0.9, 0.999]`.

    Args:
        value: a value of a setting.
        digits: significant digits of numbers with a fraction. None: all.
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(written(item, digits=digits) for item in value)}]"
    if isinstance(value, Mapping):
        inner = (f"{key}: {written(item, digits=digits)}" for key, item in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, float):
        return str(value) if digits is None else f"{value:.{digits}g}"
    return '""' if value == "" else str(value)


def is_choice_of_types(annotation: Any) -> bool:
    """Whether values of a type may be one of several types, such as a path or a list of settings."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _number(limit: Any) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        rules = [rule.metadata if isinstance(rule, FieldInfo) else [rule] for rule in arguments[1:]]
        return takes(arguments[0], [rule for several in rules for rule in several])
    if origin is typing.Literal:
        return " or ".join(str(choice) for choice in arguments)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(str(member.value) for member in annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type, arguments)))
    if origin in (tuple, list):
        return _list([_type(item) for item in arguments if item is not Ellipsis], Ellipsis in arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"names with values, each {_type(arguments[1])}"
    return _PLAIN.get(annotation, "settings")


def _list(items: list[str], is_open: bool) -> str:
    """Return a list in words. An open one, or one of a single type, has any number of items of that type."""
    if is_open or len(items) == 1:
        return f"a list of values, each {items[0]}"
    if len(set(items)) == 1:
        return f"a list of {len(items)} values, each {items[0]}"
    return f"a list of {len(items)} values: {', '.join(items)}"
