"""Collectives that a contrastive step needs.

With one process every function is the identity, so methods need no special case.
Gradients follow data-parallel averaging: the engine divides the summed gradient by the number of ranks.
The backward pass of a gather or a sum therefore sums the gradients of all ranks' losses for this rank's rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty((world_size() * len(x), *x.shape[1:]))
        dist.all_gather_single(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _own_part_of_sum(grad.contiguous())


def _own_part_of_sum(x: Tensor) -> Tensor:
    """Sum [world * b, …] over the ranks, and return this rank's rows [b, …]."""
    if x.is_cuda:
        out = x.new_empty((len(x) // world_size(), *x.shape[1:]))
        dist.reduce_scatter_tensor(out, x)
        return out
    # gloo has no reduce-scatter for some types. An all-reduce followed by a slice gives the same result.
    total = x.clone()
    dist.all_reduce(total)
    return total.chunk(world_size())[rank()]


def _summed(x: Tensor) -> Tensor:
    """Return the sum over the ranks, in the shape of x."""
    total = x.contiguous().clone()
    dist.all_reduce(total)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


class _SumForEqualLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * world_size()


def gather(x: Tensor) -> Tensor:
    """Gather the rows of all ranks in rank order, differentiably: [b, …] -> [world * b, …]. Every rank has the same
    b."""
    return _Gather.apply(x) if world_size() > 1 else x


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over the ranks, differentiably. Returns the same shape."""
    return _Sum.apply(x) if world_size() > 1 else x


def sum_for_equal_losses(x: Tensor) -> Tensor:
    """Sum over the ranks, differentiably, where every rank computes the same value from the sum.

    All ranks then have the same gradient, and the backward pass needs no message. Returns the same shape.
    """
    return _SumForEqualLosses.apply(x) if world_size() > 1 else x


@dataclass
class PendingGather:
    """A running gather. `result` waits for it. It has no gradient."""

    out: Tensor  # [world * b, …]
    work: dist.Work | None

    def result(self) -> Tensor:
        """Wait for the gathered rows [world * b, …] and return them."""
        if self.work is not None:
            self.work.wait()
            self.work = None
        return self.out


@torch.no_grad()
def start_gather(x: Tensor) -> PendingGather:
    """Begin to gather the rows [b, …] of all ranks, so that computation overlaps it. Every rank calls in the same
    order."""
    x = x.detach().contiguous()
    if world_size() == 1:
        return PendingGather(x, None)
    out = x.new_empty((world_size() * len(x), *x.shape[1:]))
    return PendingGather(out, dist.all_gather_single(out, x, async_op=True))


def pack(*tensors: Tensor) -> Tensor:
    """Return the rows of several tensors [b, …] side by side, bit for bit, as one message: [b, words] int32.

    Types of 4 and 8 bytes can be mixed.
    """
    return torch.cat([t.detach().reshape(len(t), -1).contiguous().view(torch.int32) for t in tensors], dim=1)


def unpack(message: Tensor, *like: Tensor) -> list[Tensor]:
    """Return the tensors that `pack` put into a message [B, words], with the types and row shapes of `like` ([…, …]
    each)."""
    words = [t[:1].numel() * t.element_size() // 4 for t in like]
    parts = message.split(words, dim=1)
    return [
        part.contiguous().view(t.dtype).view(len(message), *t.shape[1:])
        for part, t in zip(parts, like, strict=True)
    ]
