"""The methods, one file each. A file that defines a subclass of `MethodSettings` is a method; nothing else lists it."""

import importlib
import pkgutil
from collections.abc import Iterator

from trainer.methods.base import Method, MethodSettings, Output


def available() -> dict[str, type[MethodSettings]]:
    """Every method's settings class by the method's name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {s.model_fields["name"].default: s for s in _below(MethodSettings)}


def _below(settings: type[MethodSettings]) -> Iterator[type[MethodSettings]]:
    """Subclasses at any depth: a method may take its settings from another's."""
    for subclass in settings.__subclasses__():
        yield subclass
        yield from _below(subclass)


__all__ = ["Method", "MethodSettings", "Output", "available"]
