"""Collectives for small Python values that ranks must agree on.

Values travel as JSON and tensors as safetensors. A pickle from another machine could run any code here.
"""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from data_pipelines.errors import UserError


def broadcast_object(value: Any) -> Any:
    """Return rank 0's value on every rank.

    Args:
        value: what JSON can hold, a path, or a UserError. Only rank 0's counts. Tuples arrive as lists.
    """
    return _decoded(_broadcast(_encoded(value) if dist.get_rank() == 0 else b""))


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all ranks, by rank, on every rank. They may be of the kinds of `broadcast_object`."""
    own = _encoded(value)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    longest = int(max(sizes))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
    everywhere = [torch.empty(longest, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(everywhere, padded)
    return [
        _decoded(part[: int(size)].numpy().tobytes()) for part, size in zip(everywhere, sizes, strict=True)
    ]


def broadcast_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return rank 0's named tensors on every rank, on the CPU. Those of other ranks do not count."""
    packed = b""
    if dist.get_rank() == 0:
        packed = safetensors.torch.save(
            {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
        )
    return safetensors.torch.load(_broadcast(packed))


def _broadcast(data: bytes) -> bytes:
    size = torch.tensor([len(data)])
    dist.broadcast(size, src=0)
    content = torch.empty(int(size), dtype=torch.uint8)
    if data:
        content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(content, src=0)
    return content.numpy().tobytes()


def _encoded(value: Any) -> bytes:
    return json.dumps(value, default=_as_json).encode()


def _decoded(data: bytes) -> Any:
    return json.loads(data, object_hook=_from_json)


def _as_json(value: object) -> dict[str, Any]:
    if isinstance(value, Path):
        return {_KIND: "path", "path": str(value)}
    if isinstance(value, UserError):
        where = None if value.where is None else str(value.where)
        return {_KIND: "error", "what": value.what, "where": where, "fix": value.fix}
    raise TypeError(f"ranks cannot exchange a {type(value).__name__}")


def _from_json(found: dict[str, Any]) -> Any:
    if found.get(_KIND) == "path":
        return Path(found["path"])
    if found.get(_KIND) == "error":
        return UserError(found["what"], where=found["where"], fix=found["fix"])
    return found


_KIND = "kind of Python object"
