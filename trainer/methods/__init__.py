"""The methods, one file each. Every subclass of `MethodSettings` in this package is found automatically."""

import importlib
import pkgutil
from collections.abc import Iterator

from trainer.methods.base import Method, MethodSettings, Output


def available() -> dict[str, type[MethodSettings]]:
    """Return the settings class of every method, by method name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {s.model_fields["name"].default: s for s in _below(MethodSettings)}


def _below(settings: type[MethodSettings]) -> Iterator[type[MethodSettings]]:
    """Return subclasses at any depth, because a method may inherit its settings from another method."""
    for subclass in settings.__subclasses__():
        yield subclass
        yield from _below(subclass)


__all__ = ["Method", "MethodSettings", "Output", "available"]
