"""Tensor files that a group can share."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a safetensors file with the permissions that any new file of this process gets.

    The library alone creates files that only their owner may read, so nobody else in a group could resume a run.

    Args:
        tensors: contiguous tensors in host memory, none of which shares memory with another.
        path: the file. An existing one is replaced and its permissions stay.
        metadata: text to store in the header.

    Raises:
        OSError, SafetensorError: the disk is full, over quota or not writable.
    """
    path.touch()
    mode = path.stat().st_mode & 0o777
    save_file(dict(tensors), str(path), metadata=metadata)
    path.chmod(mode)
