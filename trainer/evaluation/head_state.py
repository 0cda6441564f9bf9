"""Heads that are half trained, in one file: a kill costs the epoch that it falls into and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_pipelines.files import replacing
from trainer.distributed import from_first
from trainer.evaluation.heads import LinearHeads
from trainer.parallel import rank, world_size

_METADATA = "all4one_heads"


class HeadState:
    """The file of a training of heads: tensors as safetensors, the epoch and what they belong to as JSON inside of it.

    Args:
        path: the file.
        facts: what the training is of: weights, sets, settings. A file with others is of no use.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._facts = json.loads(json.dumps(facts))  # as they will be read

    def load(self, heads: Mapping[str, LinearHeads]) -> int:
        """Put the file's tensors into the heads; returns the epochs they are of, 0 where there is no such file.

        The first rank reads, and all others, which call alike, get what it found.
        """
        epoch = self._read(heads) if rank() == 0 else 0
        if world_size() > 1 and (epoch := from_first(epoch)):
            for tensor in self._tensors(heads).values():
                dist.broadcast(tensor, src=0)
        return epoch

    def _read(self, heads: Mapping[str, LinearHeads]) -> int:
        try:
            with safe_open(str(self._path), framework="pt") as file:
                found = json.loads((file.metadata() or {})[_METADATA])
                if found["facts"] != self._facts:
                    return 0
                saved = {name: file.get_tensor(name) for name in self._tensors(heads)}
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0
        for name, tensor in self._tensors(heads).items():
            tensor.copy_(saved[name])
        return int(found["epoch"])

    def save(self, heads: Mapping[str, LinearHeads], epoch: int) -> None:
        """Write the heads as they are after some epochs, all or nothing; the first rank does."""
        if rank() == 0:
            tensors = {name: tensor.cpu() for name, tensor in self._tensors(heads).items()}
            with replacing(self._path) as temporary:
                metadata = {_METADATA: json.dumps({"epoch": epoch, "facts": self._facts})}
                save_file(tensors, str(temporary), metadata=metadata)

    def remove(self) -> None:
        """Take the file away: the training has its result."""
        if rank() == 0:
            self._path.unlink(missing_ok=True)

    @staticmethod
    def _tensors(heads: Mapping[str, LinearHeads]) -> dict[str, Tensor]:
        return {
            f"{backbone}.{name}": tensor
            for backbone, several in heads.items()
            for name, tensor in several.tensors.items()
        }
