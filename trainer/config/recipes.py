"""Recipes on disk: find them by name and merge them with their bases.

The command line imports this module to list recipes, so it loads no heavy packages.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.yaml_reader import read_yaml


def _shipped() -> Path:
    """The folder of the shipped recipes. A wheel has it inside of `all4one`, where a checkout has none."""
    root = Path(__file__).resolve().parents[2]
    installed = root / "all4one" / "configs"
    return installed if installed.is_dir() else root / "configs"


SHIPPED = _shipped()
"""Folder of the shipped recipes."""


COMPONENTS = ("method", "optim", "backbone")
"""Components whose `name` selects which settings they have."""


def shipped_recipes() -> dict[str, str]:
    """Return the description of every shipped recipe by name."""
    return {
        path.stem: str(_read(path).get("description", ""))
        for path in sorted(SHIPPED.glob("*.yaml"))
        if path.stem != "base"
    }


def find_recipe(recipe: str | Path) -> Path:
    """Return the file of a recipe, given an existing path or the name of a shipped recipe.

    Raises:
        UserError: there is no such recipe. The message names the nearest shipped recipe.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{recipe}.yaml"
    if shipped.is_file():
        return shipped
    names = [p.stem for p in sorted(SHIPPED.glob("*.yaml"))]
    near = difflib.get_close_matches(path.stem, names, n=1)
    raise UserError(
        f"there is no recipe {str(recipe)!r}" + (f"; did you mean {near[0]}?" if near else ""),
        fix=f"give the path of a YAML file, or one of {', '.join(names)}",
    )


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Return a recipe's nested values, merged over its chain of bases."""
    values: dict[str, Any] = {}
    for _, own in read_chain(recipe):
        values = merge(values, own)
    return values


def read_chain(recipe: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files that make up a recipe with their own values, lowest base first.

    Raises:
        UserError: a file is missing or is not a recipe, or the bases form a cycle.
    """
    chain: list[tuple[Path, dict[str, Any]]] = []
    path: Path | None = find_recipe(recipe)
    while path is not None:
        if path in [p for p, _ in chain]:
            raise UserError(
                "the `base:` keys of these recipes form a cycle", where=path, fix="remove one `base:`"
            )
        values = _read(path)
        base = values.pop("base", None)
        chain.append((path, values))
        path = _base(path, str(base)) if base is not None else None
    return chain[::-1]


def _base(path: Path, base: str) -> Path:
    beside = path.parent / (base if base.endswith(".yaml") else f"{base}.yaml")
    return beside if beside.is_file() else find_recipe(base)


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError("must be a mapping of keys to values", where=path, fix=f"see {SHIPPED / 'base.yaml'}")
    return values


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the nested values of `above` over those of `below`. Lists are replaced as a whole.

    A recipe that selects another method, optimizer or backbone does not inherit that component's settings from the
    base. It starts from the new component's defaults. If a setting is given under its old and its new name, the last
    one counts.
    """
    below, above = with_component_names(below), with_component_names(above)
    kept = {
        key: value
        for key, value in below.items()
        if key not in COMPONENTS or not _names_another(value, above.get(key))
    }
    return merge_section(kept, above)


def merge_section(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the nested values of a section, in which no component is selected."""
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        old = merged.pop(key, None)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = merge_section(old, value) if both else value
    return merged


def with_component_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values in which `method: byol`, which is short for it, is `method: {name: byol}`."""
    return {
        key: {"name": value} if key in COMPONENTS and isinstance(value, str) else value
        for key, value in values.items()
    }


def _names_another(old: Any, new: Any) -> bool:
    """Whether the settings of a component name another one than before."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping) and "name" in new):
        return False
    return bool(new["name"] != old.get("name", new["name"]))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
