"""The state of an unfinished training in one file. A kill loses only the current epoch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from data_pipelines.files import replacing
from trainer.checkpoints.tensor_files import save_tensors
from trainer.distributed.collectives import rank, world_size
from trainer.distributed.objects import broadcast_object

_METADATA = "all4one_training"


class TrainingState:
    """The file of a training: tensors as safetensors, with its progress and facts as JSON in the metadata.

    Args:
        path: the file.
        facts: what the training depends on: weights, datasets, settings. A file with other facts is ignored.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._facts = json.loads(json.dumps(facts))  # in the form in which JSON returns them

    def notes(self) -> dict[str, Any]:
        """Return the saved progress of the training, or an empty mapping if there is no matching file.

        The first rank reads the file and sends the result to all others. All ranks make the same call.
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
        """Copy the file's tensors into these tensors, which must have the saved names and shapes. All ranks call."""
        if rank() == 0:
            with safe_open(str(self._path), framework="pt") as file:
                for name, tensor in tensors.items():
                    tensor.copy_(file.get_tensor(name))
        if world_size() > 1:
            for tensor in tensors.values():
                whole = tensor.contiguous()  # convolution weights are channels-last
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write tensors and progress atomically. Only the first rank writes."""
        if rank() == 0:
            saved = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            with replacing(self._path) as temporary:
                metadata = {_METADATA: json.dumps({"notes": notes, "facts": self._facts})}
                save_tensors(saved, temporary, metadata)

    def remove(self) -> None:
        """Remove the file, because the training has its result."""
        if rank() == 0:
            self._path.unlink(missing_ok=True)
