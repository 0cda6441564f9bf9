"""Command-line overrides: `key=value` settings over nested values."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from data_pipelines.errors import UserError
from data_pipelines.yaml_reader import parse_scalar, parse_yaml, problem_of
from trainer.config.recipes import COMPONENTS, merge, merge_section


@dataclass(frozen=True)
class Override:
    """One `key=value`. The value is a scalar, a list, or nested settings."""

    path: tuple[str, ...]
    value: Any

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(self.path)

    def nested(self) -> dict[str, Any]:
        """Return the override as nested values. Indices of lists are keys."""
        nested = self.value
        for part in reversed(self.path):
            nested = {part: nested}
        return dict(nested)

    def component_name(self) -> dict[str, Any]:
        """Return the nested name of the component that the override selects. Empty: it selects none."""
        component, *inner = self.path
        section = self.nested()[component]
        selects = component in COMPONENTS and inner in ([], ["name"]) and "name" in section
        return {component: {"name": section["name"]}} if selects else {}


def parse_override(assignment: str) -> Override:
    """Parse `key=value`. `optim=adamw` is short for `optim.name=adamw`. A value in quotes is a string.

    Raises:
        UserError: the text has another form.
    """
    key, separator, text = assignment.partition("=")
    path = tuple(key.split("."))
    if not separator or not all(path):
        raise UserError(f"{assignment!r} is not of the form key=value", fix="for example optim.lr=0.5")
    value = _value(assignment, text)
    return Override((*path, "name") if key in COMPONENTS and not isinstance(value, dict) else path, value)


def apply(values: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """Return nested values with overrides. List indices count from 0 (`data.views.0.size=32`).

    Nested settings are merged as those of recipes. Components are selected first, so that the order of `optim=adamw`
    and `optim.lr=0.1` does not matter. Selecting another component resets its settings to the defaults.

    Raises:
        UserError: there is no such item of a list, or a value has nothing inside.
    """
    names: dict[str, Any] = {}
    for override in overrides:
        names |= override.component_name()
    values = merge(values, names)  # of several names for a component, the last one counts
    for override in overrides:
        _set(values, override)
    return values


def _set(values: dict[str, Any], override: Override) -> None:
    *parents, leaf = override.path
    place: Any = values
    for parent in parents:
        place = _child(place, parent, override.key)
    if isinstance(place, list):
        position = _position(place, leaf, override.key)
        place[position] = _over(place[position], override.value)
        return
    # The keys stay in the order in which they were last set.
    place[leaf] = _over(place.pop(leaf, None), override.value)


def _over(old: Any, new: Any) -> Any:
    return merge_section(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new


def reset_settings(
    before: Mapping[str, Any], after: Mapping[str, Any], given: Collection[str]
) -> Iterator[str]:
    """Yield, for each component that overrides replaced, which of its settings got other values by that.

    Args:
        before: nested values of the configuration before the overrides.
        after: nested values after them.
        given: the dotted keys of the settings that the overrides give, with current names.
    """
    for part in COMPONENTS:
        old, new = before[part], after[part]
        if old["name"] == new["name"]:
            continue
        changed = [
            f"{key}={value} (was {was})"
            for key, was, value in _changes(part, old, new)
            if not any(f"{one}.".startswith(f"{key}.") for one in given)
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


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        found = place[_position(place, part, key)]
    elif place.get(part) is None:
        found = place[part] = {}
    else:
        found = place[part]
    if not isinstance(found, dict | list):
        raise UserError(f"{key}: {part!r} is {found!r}, which has no settings inside")
    return found


def _position(items: list[Any], part: str, key: str) -> int:
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    raise UserError(f"{key}: {part!r} is not an index of a list with {len(items)} items", fix="count from 0")


def _value(assignment: str, text: str) -> Any:
    """Return the value of an override: YAML in brackets or quotes, and otherwise a scalar, which needs no quotes."""
    if text.lstrip()[:1] not in ("[", "{", "'", '"'):
        return parse_scalar(text)
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(
            f"the value of {assignment!r} is not valid YAML: {problem_of(error)}",
            fix="close every quote and bracket",
        ) from None
