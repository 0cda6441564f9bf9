"""The methods. A file of this folder that defines a subclass of `MethodSettings` is a method; nothing else lists it.

A method may also come from outside: an installed package names its module in the entry-point group `all4one.methods`.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points

from data_pipelines.errors import UserError, first_line
from trainer.methods.base import Method, MethodSettings, Output

GROUP = "all4one.methods"
"""Group of entry points that name modules with methods."""


def available() -> dict[str, type[MethodSettings]]:
    """Every method's settings class by the method's name.

    Raises:
        UserError: two methods have one name, or a method from outside cannot be imported.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    _import_from_outside()
    found: dict[str, type[MethodSettings]] = {}
    for settings in _below(MethodSettings):
        name = settings.model_fields["name"].default
        if (other := found.get(name)) is not None:
            raise UserError(
                f"two methods are called {name!r}",
                where=f"{_place(other)} and {_place(settings)}",
                fix="give one of them another name, or uninstall its package",
            )
        found[name] = settings
    return found


@functools.cache
def _import_from_outside() -> None:
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.value
            raise UserError(
                f"the method {entry.name!r} cannot be imported: {first_line(error)}",
                where=f"{entry.value} of the package {package}",
                fix=f"fix or uninstall {package}",
            ) from error


def _place(settings: type[MethodSettings]) -> str:
    return f"{inspect.getfile(settings)} ({settings.__qualname__})"


def _below(settings: type[MethodSettings]) -> Iterator[type[MethodSettings]]:
    """Return subclasses at any depth, because a method may inherit its settings from another method."""
    for subclass in settings.__subclasses__():
        yield subclass
        yield from _below(subclass)


__all__ = ["Method", "MethodSettings", "Output", "available"]
