"""One `key=value` of the command line, set in nested values."""

from typing import Any

import yaml

from data_pipelines.errors import UserError

_NAMED = ("method", "optim", "backbone")
"""Components whose `name` says which settings they have."""


def set_value(values: dict[str, Any], assignment: str) -> None:
    """Set one `key=value` in nested values; positions in lists count from 0 (`data.views.0.size=32`).

    A component that is named anew (`optim.name=adamw`) starts from its own defaults. `optim=adamw` is the
    same. A value in quotes is a text.
    """
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise UserError(f"{assignment!r} is not of the form key=value", fix="for example optim.lr=0.5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value of {assignment!r} is not YAML: {error}") from None
    if isinstance(value, str) and text.lstrip()[:1] not in ("'", '"'):
        value = _number(value)
    if key in _NAMED and not isinstance(value, dict):
        key = f"{key}.name"
    *parents, leaf = key.split(".")
    place: Any = values
    for parent in parents:
        place = _child(place, parent, key)
    if isinstance(place, list):
        place[_position(place, leaf, key)] = value
        return
    if ".".join(parents) in _NAMED and leaf == "name" and place.get("name", value) != value:
        place.clear()
    place.pop(leaf, None)  # what is set last stands last
    place[leaf] = value


def names_component(assignment: str) -> bool:
    """Whether a `key=value` chooses a component by name, which removes settings that were made before it."""
    key, _, value = assignment.partition("=")
    return key.endswith(".name") or (key in _NAMED and not value.lstrip().startswith("{"))


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, key)]
    if place.get(part) is None:
        place[part] = {}
    if not isinstance(place[part], dict | list):
        raise UserError(f"{key}: {part!r} is {place[part]!r}, and has nothing of that name in it")
    return place[part]


def _position(items: list[Any], part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise UserError(f"{key}: {part!r} is not a position in a list of {len(items)}", fix="count from 0")


def _number(text: str) -> float | str:
    """YAML 1.1 takes 1e-3 for a string."""
    try:
        return float(text)
    except ValueError:
        return text
