"""The methods, one file each. A file that defines a subclass of `MethodSettings` is a method; nothing else lists it."""

import importlib
import pkgutil

from trainer.methods.base import Method, MethodSettings, Output


def available() -> dict[str, type[MethodSettings]]:
    """Every method's settings class by the method's name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {s.model_fields["name"].default: s for s in MethodSettings.__subclasses__()}


__all__ = ["Method", "MethodSettings", "Output", "available"]
