"""Reads files of weights without running code from them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data_pipelines.errors import UserError, first_line


def read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the named tensors of a file on the CPU, grouped by their key. Tensors without a key come first, under
    `""`.

    Args:
        path: a safetensors file, recognized by its suffix, or a file written by `torch.save`.

    Raises:
        UserError: there is no such file, it is broken, or it contains objects that only code could create.
    """
    return dict(_groups(_content(path)))


def _content(path: Path) -> Any:
    """Return the content of the file. For a pickle, only tensors and plain containers are loaded."""
    if not path.is_file():
        raise UserError(
            "there is no such file", where=path, fix="set backbone.init to a file of weights, not a folder"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}", where=path, fix="make the file readable"
        ) from None
    except SafetensorError as error:
        raise UserError(
            f"is not a complete safetensors file: {error}", where=path, fix="copy it again"
        ) from None
    except Exception as error:  # broken bytes make torch raise errors of any kind
        raise UserError(
            f"cannot be read as weights only: {first_line(error)}",
            where=path,
            fix="if you trust the file, save only its tensors: torch.save(torch.load(OLD, "
            'weights_only=False)["state_dict"], NEW), with the packages that wrote the file',
        ) from None


def _groups(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield mappings of names to tensors in the content of a file, by their keys, outermost first."""
    if not isinstance(content, Mapping) or depth > 2:
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield name, tensors
    for key, value in named.items():
        yield from _groups(value, f"{name}.{key}" if name else key, depth + 1)
