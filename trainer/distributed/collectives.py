"""Collectives that a contrastive step needs.

Every function is the identity where there is one process, so that methods are written once.
Gradients follow data-parallel averaging: the engine divides the summed gradient by the number of ranks,
so the backward of a gather or a sum adds up what every rank's loss says of this rank's rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty((world_size() * len(x), *x.shape[1:]))
        dist.all_gather_single(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # gloo has no reduce-scatter for every type; the sum of all followed by a slice is the same number
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def gather(x: Tensor) -> Tensor:
    """Rows of all ranks in rank order, differentiable: [b, …] -> [world * b, …]. Every rank has the same b."""
    return _Gather.apply(x) if world_size() > 1 else x


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over the ranks, differentiable; the same shape."""
    return _Sum.apply(x) if world_size() > 1 else x


@dataclass
class PendingGather:
    """A gather under way. `result` waits for it; there is no gradient."""

    out: Tensor  # [world * b, …]
    work: dist.Work | None

    def result(self) -> Tensor:
        """The gathered rows [world * b, …]."""
        if self.work is not None:
            self.work.wait()
            self.work = None
        return self.out


@torch.no_grad()
def start_gather(x: Tensor) -> PendingGather:
    """Begin to gather rows of all ranks [b, …], to overlap it with computation. Every rank calls in the same order."""
    x = x.detach().contiguous()
    if world_size() == 1:
        return PendingGather(x, None)
    out = x.new_empty((world_size() * len(x), *x.shape[1:]))
    return PendingGather(out, dist.all_gather_single(out, x, async_op=True))


def pack(*tensors: Tensor) -> Tensor:
    """Rows of several tensors [b, …] side by side, bit for bit, for one message: [b, words] int32.

    Types of 4 and of 8 bytes mix freely.
    """
    return torch.cat([t.detach().reshape(len(t), -1).contiguous().view(torch.int32) for t in tensors], dim=1)


def unpack(message: Tensor, *like: Tensor) -> list[Tensor]:
    """What `pack` put into a message [B, words], with the types and row shapes of `like` ([…, …] each)."""
    words = [t[:1].numel() * t.element_size() // 4 for t in like]
    parts = message.split(words, dim=1)
    return [
        part.contiguous().view(t.dtype).view(len(message), *t.shape[1:])
        for part, t in zip(parts, like, strict=True)
    ]
