"""Triton kernels as operations of torch. Triton is not loaded on machines without a GPU."""

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch

_library = torch.library.Library("all4one", "DEF")


def can_compile() -> bool:
    """Return whether Triton is there with the compiler that it needs."""
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def define_operations(
    signatures: Mapping[str, str], shapes: Mapping[str, Callable[..., Any]], module: str
) -> None:
    """Define functions that start kernels as operations of `torch.ops.all4one`.

    Args:
        signatures: arguments and results by the name of the function, in the language of torch's schemas.
        shapes: functions of the same arguments by the same names. They return results without values, for
            FakeTensors.
        module: name of the module with the functions. The first call of an operation imports it.
    """
    for name, signature in signatures.items():
        _library.define(f"{name}{signature}")
        _library.impl(name, _starting(module, name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"all4one::{name}", shapes[name], lib=_library)


def _starting(module: str, name: str) -> Callable[..., Any]:
    def start(*args: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args)

    return start
