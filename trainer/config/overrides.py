"""Command-line overrides: set one `key=value` in nested values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from data_pipelines.errors import UserError
from data_pipelines.yaml_reader import TypedWord, parse_yaml, problem_of

COMPONENTS = ("method", "optim", "backbone")
"""Components whose `name` selects which settings they have."""


def set_value(values: dict[str, Any], assignment: str) -> None:
    """Set one `key=value` in nested values. List indices count from 0 (`data.views.0.size=32`).

    An override that selects another component (`optim.name=adamw`) resets its other settings to the defaults.
    `optim=adamw` is short for it. A value in quotes is a string.
    """
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise UserError(f"{assignment!r} is not of the form key=value", fix="for example optim.lr=0.5")
    value = _value(assignment, text)
    if key in COMPONENTS and not isinstance(value, dict):
        key = f"{key}.name"
    *parents, leaf = key.split(".")
    place: Any = values
    for parent in parents:
        place = _child(place, parent, key)
    if isinstance(place, list):
        place[_position(place, leaf, key)] = value
        return
    if ".".join(parents) in COMPONENTS and leaf == "name" and place.get("name", value) != value:
        place.clear()
    place.pop(leaf, None)  # keeps the keys in the order in which they were last set
    place[leaf] = value


def reset_settings(
    before: Mapping[str, Any], after: Mapping[str, Any], assignments: Sequence[str]
) -> Iterator[str]:
    """Yield, for each component that overrides replaced, which of its settings got other values by that.

    Args:
        before: nested values of the configuration before the overrides.
        after: nested values after them.
        assignments: the overrides.
    """
    given = {assignment.partition("=")[0] for assignment in assignments}
    for part in COMPONENTS:
        old, new = before[part], after[part]
        if old["name"] == new["name"]:
            continue
        changed = [
            f"{key}={value} (was {was})" for key, was, value in _changes(part, old, new) if key not in given
        ]
        if changed:
            yield f"{part}.name={new['name']} starts from its own defaults: {', '.join(changed)}"


def _changes(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) of the settings that both have, with other values, but for names."""
    for key in new:
        if key == "name" or key not in old or old[key] == new[key]:
            continue
        if isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            yield from _changes(f"{prefix}.{key}", old[key], new[key])
        else:
            yield f"{prefix}.{key}", old[key], new[key]


def names_component(assignment: str) -> bool:
    """Return whether a `key=value` selects a component by name, which resets the component's earlier settings."""
    key, _, value = assignment.partition("=")
    return key.endswith(".name") or (key in COMPONENTS and not value.lstrip().startswith("{"))


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_position(place, part, key)]
    if place.get(part) is None:
        place[part] = {}
    if not isinstance(place[part], dict | list):
        raise UserError(f"{key}: {part!r} is {place[part]!r}, which has no settings inside")
    return place[part]


def _position(items: list[Any], part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise UserError(f"{key}: {part!r} is not an index of a list with {len(items)} items", fix="count from 0")


def _value(assignment: str, text: str) -> Any:
    """Return the value of an override: YAML, except that text needs no quotes."""
    is_structure = text.lstrip()[:1] in ("[", "{", "'", '"')
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        if is_structure:
            raise UserError(
                f"the value of {assignment!r} is not valid YAML: {problem_of(error)}",
                fix="close every quote and bracket",
            ) from None
        return text
    # YAML would end such text at ` #`, and make a mapping of `a: b`.
    is_text = isinstance(value, str | dict) and not isinstance(value, TypedWord)
    return text if is_text and not is_structure else value
