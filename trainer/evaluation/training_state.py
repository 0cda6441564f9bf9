"""A training that is half done, in one file: a kill costs the epoch that it falls into and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_pipelines.files import replacing
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.process_group import broadcast_object

_METADATA = "all4one_training"


class TrainingState:
    """The file of a training: tensors as safetensors, how far it is and what it belongs to as JSON inside of it.

    Args:
        path: the file.
        facts: what the training is of: weights, sets, settings. A file with others is of no use.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._facts = json.loads(json.dumps(facts))  # as they will be read

    def notes(self) -> dict[str, Any]:
        """How far the training is, as it was saved; empty where there is no such file.

        The first rank reads, and all others, which call alike, get what it found.
        """
        found = self._read_notes() if rank() == 0 else {}
        return dict(broadcast_object(found)) if world_size() > 1 else found

    def _read_notes(self) -> dict[str, Any]:
        try:
            with safe_open(str(self._path), framework="pt") as file:
                found = json.loads((file.metadata() or {})[_METADATA])
                return dict(found["notes"]) if found["facts"] == self._facts else {}
        except (OSError, SafetensorError, KeyError, ValueError):
            return {}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put the file's tensors into these, which have names and shapes of those that were saved; all ranks call."""
        if rank() == 0:
            with safe_open(str(self._path), framework="pt") as file:
                for name, tensor in tensors.items():
                    tensor.copy_(file.get_tensor(name))
        if world_size() > 1:
            for tensor in tensors.values():
                whole = tensor.contiguous()  # weights of convolutions are channels-last
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write tensors and how far they are, all or nothing; the first rank does."""
        if rank() == 0:
            saved = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            with replacing(self._path) as temporary:
                metadata = {_METADATA: json.dumps({"notes": notes, "facts": self._facts})}
                save_file(saved, str(temporary), metadata=metadata)

    def remove(self) -> None:
        """Take the file away: the training has its result."""
        if rank() == 0:
            self._path.unlink(missing_ok=True)
