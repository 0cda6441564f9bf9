"""Messages for an invalid configuration, each with the key that was probably meant."""

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from data_pipelines.settings import Settings
from trainer.methods import MethodSettings, available


def explain(error: Mapping[str, Any], values: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """Describe one validation error: the key, the problem and the nearest valid key.

    Args:
        error: an error of pydantic.
        values: the nested values that were not valid.
        schema: schema of the whole configuration.
    """
    # Pydantic names which type of a union a value was checked against. Such a tag is no key.
    path = [str(part) for part in error["loc"] if not str(part).startswith("(")]
    key = ".".join(path) or "configuration"
    if error["type"] == "extra_forbidden":
        siblings = [*fields_at(path[:-1], values, schema)]
        near = difflib.get_close_matches(path[-1], siblings, n=1, cutoff=0.5)
        elsewhere = [k for k in all_keys(values, schema) if k.rsplit(".")[-1] == path[-1]]
        # A key of exactly this name elsewhere is what was meant more often than one of a similar name here.
        hint = elsewhere[0] if elsewhere else ".".join([*path[:-1], near[0]]) if near else ""
        return f"{key}: unknown key" + (
            f"; did you mean {hint}?" if hint else f"; valid keys: {', '.join(siblings)}"
        )
    shown = error.get("input")
    typed = str(shown).lower() if isinstance(shown, bool) else getattr(shown, "text", repr(shown))
    return f"{key}: {problem_of(error)}" + (
        f", not {typed}" if isinstance(shown, str | int | float | bool) else ""
    )


_WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must hold settings, each with a value",
    "finite_number": "must be finite",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "int_type": "must be an integer",
    "invalid_key": "is no key, because keys must be text",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_attributes_type": "must hold settings, each with a value",
    "model_type": "must hold settings, each with a value",
    "path_type": "must be a path",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "tuple_type": "must be a list",
}
"""Our words for the types of errors of pydantic."""


def problem_of(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, in our words. `error` is an error of pydantic."""
    if words := _WORDS.get(error["type"]):
        limits = error.get("ctx", {})
        return words.format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in limits.items()})
    message = str(error["msg"]).removeprefix("Value error, ")
    return message.replace("Input should be", "must be").replace("Field required", "is missing")


def old_names(
    values: Any, whole: Mapping[str, Any], schema: type[BaseModel], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Yield each setting that has its name of version 0.1, with its current name; both are dotted keys.

    Args:
        values: nested values, from `path` on.
        whole: nested values of the whole configuration, which select the method.
        schema: schema of the whole configuration.
        path: position of `values` in the configuration.
    """
    if isinstance(values, list):
        for position, value in enumerate(values):
            yield from old_names(value, whole, schema, (*path, str(position)))
    if not isinstance(values, Mapping):
        return
    model = _model_at(path, whole, schema)
    renamed = model.renamed() if model is not None and issubclass(model, Settings) else {}
    for key, value in values.items():
        if key in renamed:
            yield ".".join((*path, key)), ".".join((*path, renamed[key]))
        yield from old_names(value, whole, schema, (*path, str(key)))


def current_key(key: str, schema: type[BaseModel], whole: Mapping[str, Any] | None = None) -> str:
    """Return a setting's dotted key with current names.

    Args:
        key: dotted key.
        schema: schema of the whole configuration.
        whole: nested values of a configuration, which select the method. None: All4One.
    """
    parts: list[str] = []
    for part in key.split("."):
        model = _model_at(parts, whole or {"method": {}}, schema)
        renamed = model.renamed() if model is not None and issubclass(model, Settings) else {}
        parts.append(renamed.get(part, part))
    return ".".join(parts)


_WRAPPERS = (typing.Union, types.UnionType, typing.Annotated)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (tuple, *_WRAPPERS):
        return next((m for a in typing.get_args(annotation) if (m := _model_of(a))), None)
    return None


def _holds_list(annotation: Any) -> bool:
    """Whether a type is a list of settings, or takes one among others."""
    origin = typing.get_origin(annotation)
    if origin in _WRAPPERS:
        return any(map(_holds_list, typing.get_args(annotation)))
    return origin in (tuple, list)


def fields_at(path: Sequence[str], values: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of the model at a dotted path."""
    model = _model_at(path, values, schema)
    return dict(model.model_fields) if model is not None else {}


def _model_at(
    path: Sequence[str], values: Mapping[str, Any], schema: type[BaseModel]
) -> type[BaseModel] | None:
    """Return the model at a dotted path. For the method, it is the settings class of the method that `values`
    selects."""
    model: type[BaseModel] | None = schema
    in_list = False
    for part in path:
        if model is None:
            return None
        if in_list and part.isdecimal():
            in_list = False
            continue
        field = model.model_fields.get(part)
        model = _model_of(field.annotation) if field is not None else None
        in_list = field is not None and _holds_list(field.annotation)
        if model is MethodSettings:
            method = values.get("method")
            model = available().get(str(method.get("name", "all4one")) if isinstance(method, Mapping) else "")
    return model


def all_keys(values: Mapping[str, Any], schema: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the dotted key of every section and setting, from `path` on. `values` selects the method."""
    for name, field in fields_at(path, values, schema).items():
        yield ".".join([*path, name])
        if len(path) < 3 and (_model_of(field.annotation) is not None):
            yield from all_keys(values, schema, (*path, name))
