"""Files of weights, read without running anything that is in them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from data_pipelines.errors import UserError, first_line


def read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """Named tensors of a file, on the CPU, by the key that they lie under; those of no key under `""`, and first.

    Args:
        path: safetensors by its ending, otherwise what `torch.save` wrote.

    Raises:
        UserError: there is no such file, it is broken, or it holds objects that only code of it could make.
    """
    return dict(_groups(_content(path)))


def _content(path: Path) -> Any:
    """What the file holds; of a pickle, tensors and plain containers alone."""
    if not path.is_file():
        raise UserError(
            "there is no such file", where=path, fix="name a file of weights with backbone.init, not a folder"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path, fix="mend that") from None
    except SafetensorError as error:
        raise UserError(
            f"is no whole file of safetensors: {error}", where=path, fix="copy it again"
        ) from None
    except Exception as error:  # broken bytes lead torch's reader to errors of any kind
        raise UserError(
            f"cannot be read as weights alone: {first_line(error)}",
            where=path,
            fix="if it is whole and you trust it, keep its tensors alone: torch.save(torch.load(OLD, "
            'weights_only=False)["state_dict"], NEW), with the packages that wrote it',
        ) from None


def _groups(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mappings of names to tensors inside of what a file holds, by their keys; the outermost first."""
    if not isinstance(content, Mapping) or depth > 2:
        return
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield name, tensors
    for key, value in named.items():
        yield from _groups(value, f"{name}.{key}" if name else key, depth + 1)
