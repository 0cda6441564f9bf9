"""Values as a setting's type wants them: text as it was typed, numbers that are numbers, and `~` in paths."""

import re
import types
import typing
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data_pipelines.urls import Url
from data_pipelines.yaml_reader import TypedWord, parse_scalar


def as_typed(value: Any, annotation: Any) -> Any:
    """Prepare a value for validation against a type.

    A number or truth value that was given for text or a path becomes the text that was typed. If the type also takes
    numbers, that holds for numbers of another kind, and for those that would be written differently. Nothing becomes
    empty text. A word such as `yes` becomes a truth value if the type takes one. If the type has a choice of the same
    meaning, such as `off` for `no`, the word or the truth value becomes that choice. `~` at the beginning of a path
    becomes the home folder. Everything else stays as it is, and its validation follows.

    Raises:
        ValueError: a truth value, or a number with a leading zero, was given for a number. Pydantic would take both.
    """
    accepted = set(_types(annotation))
    if isinstance(value, list | tuple) or (isinstance(value, Mapping) and typing.get_origin(annotation)):
        return _each(value, annotation)
    if value is None and str in accepted and type(None) not in accepted:
        return ""  # `run.name=`
    if isinstance(value, TypedWord | bool) and bool not in accepted:
        value = _choice_of_same_meaning(value, annotation)
    if isinstance(value, TypedWord):
        value = value.truth if bool in accepted else str(value)
    if isinstance(value, str) and value.startswith("~") and accepted & {Path, Url}:
        return _expanded(value)
    if isinstance(value, bool | int | float) and accepted & {str, Path, Url} and not _stays(value, accepted):
        return _text(value)
    if accepted & {int, float} and bool not in accepted:
        kind = "a number" if float in accepted else "an integer"
        if isinstance(value, bool):
            raise ValueError(f"must be {kind}")
        if isinstance(value, str) and str not in accepted and re.fullmatch(r"[-+]?0[0-9]+", value):
            raise ValueError(f"must be {kind} without leading zeros")
    return value


def _choice_of_same_meaning(value: TypedWord | bool, annotation: Any) -> Any:
    """Return the choice that means the same as a word or a truth value: `off` for `no`, `Off` and `false`."""
    choices = [choice for choice in _choices(annotation) if isinstance(choice, str)]
    if value in choices:
        return str(value)
    truth = value.truth if isinstance(value, TypedWord) else value
    words = [word for choice in choices if isinstance(word := parse_scalar(choice), TypedWord)]
    return next((str(word) for word in words if word.truth is truth), value)


def _stays(value: bool | int | float, accepted: set[Any]) -> bool:
    """Whether a number or truth value that was given for text stays one, because the type takes it as well."""
    if isinstance(value, bool):
        return bool(accepted & {bool, int, float})
    if isinstance(value, float):
        return float in accepted
    return float in accepted or (int in accepted and str(int(value)) == _text(value))


def _text(value: bool | int | float) -> str:
    """Return a number or truth value as it was typed."""
    return str(value).lower() if isinstance(value, bool) else str(getattr(value, "text", value))


def holds_models(annotation: Any) -> bool:
    """Whether values of a type hold settings models, which check their own values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(map(holds_models, typing.get_args(annotation)))


def refuse_control_characters(value: Any, allowed: str = "") -> None:
    """Raise a ValueError if a text, or a text in a list or a mapping, holds control characters.

    A line break in a setting would become a line of a job's script, and an escape sequence would steer a terminal.
    """
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            refuse_control_characters(item, allowed)
    elif isinstance(value, str) and any(unicodedata.category(c) == "Cc" and c not in allowed for c in value):
        raise ValueError("must not contain line breaks or other control characters")


def _expanded(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise ValueError(
            f"names the home folder of an unknown user; a folder of that name is ./{path}"
        ) from None


def _each(values: Any, annotation: Any) -> Any:
    """Prepare the items of a list, or the values of a mapping."""
    inner = _containers(annotation)
    if len(inner) != 1:
        return values
    if isinstance(values, Mapping):
        return {key: as_typed(value, inner[0]) for key, value in values.items()}
    return [as_typed(value, inner[0]) for value in values]


def _containers(annotation: Any) -> list[Any]:
    """Return the types of the items that a list, a tuple or a mapping of an annotation may hold, without repeats."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        choices = arguments[:1] if origin is typing.Annotated else arguments
        return [found for choice in choices for found in _containers(choice)]
    if origin in (list, tuple, set, frozenset):
        return list(dict.fromkeys(argument for argument in arguments if argument is not Ellipsis))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return list(arguments[1:])
    return []


def _types(annotation: Any) -> list[Any]:
    """Return the plain types that a scalar of an annotation may have."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _types(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [found for argument in arguments for found in _types(argument)]
    if origin is typing.Literal:
        return [type(argument) for argument in arguments]
    return [annotation]


def _choices(annotation: Any) -> list[Any]:
    """Return the values that the `Literal` types of an annotation list."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return list(arguments)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [found for argument in arguments for found in _choices(argument)]
    return []
