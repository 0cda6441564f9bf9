"""One rank's shard of a group of tensors. The tensors are concatenated and cut into equal parts, one per rank.

ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054) keeps optimizer state, and from stage 2 on gradients, only for such a
shard. Cuts fall anywhere, so values of full tensors must be combined from pieces on several ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Piece(NamedTuple):
    """The part of one tensor of the group that this rank holds."""

    member: int
    """Index of the tensor in the group."""
    here: slice
    """Position in this rank's shard."""
    there: slice
    """Position in the flattened tensor."""


@dataclass(frozen=True)
class Partition:
    """A group of tensors whose concatenation is sharded over W ranks, with P elements each.

    Zeros pad the concatenation after the last tensor. Every rank must call the methods that send messages.
    """

    shapes: Sequence[torch.Size]
    """Shapes of the T full tensors, in order."""
    size: int
    """P."""
    rank: int
    """This rank's number, from 0."""
    world_size: int
    """W."""
    process_group: dist.ProcessGroup | None = None
    """The group of the ranks. None: all ranks."""

    @cached_property
    def layout(self) -> list[Piece]:
        """This rank's pieces, in order."""
        begin, end = self.rank * self.size, (self.rank + 1) * self.size
        bounds = pairwise(accumulate((shape.numel() for shape in self.shapes), initial=0))
        clipped = (
            (member, low, max(low, begin), min(high, end)) for member, (low, high) in enumerate(bounds)
        )
        return [
            Piece(member, slice(a - begin, b - begin), slice(a - low, b - low))
            for member, low, a, b in clipped
            if a < b
        ]

    def pieces(self, share: Tensor) -> list[Tensor]:
        """Return views of this rank's pieces in its shard [P], in order."""
        return [share[piece.here] for piece in self.layout]

    def join(self, pieces: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return the shard [P] of the given pieces, with the type of `like`. The inverse of `pieces`."""
        return torch.cat([*pieces, like.new_zeros(self.size - sum(len(piece) for piece in pieces))])

    def norms(self, *shares: Tensor) -> Tensor:
        """Return the L2 norms [S, T] of the full tensors from this rank's shards [P] of S such groups, with one
        message."""
        squares = shares[0].new_zeros(len(shares), len(self.shapes))
        own = [piece.member for piece in self.layout]
        if own:
            squares[:, own[0] : own[-1] + 1] = torch.stack(
                [torch.stack(torch._foreach_norm(self.pieces(share))) for share in shares]
            ).square()
        if self.world_size > 1:
            dist.all_reduce(squares, group=self.process_group)
        return squares.sqrt()

    def gather(self, share: Tensor) -> list[Tensor]:
        """Return the full tensors on rank 0, gathered from every rank's shard [P]. Other ranks get an empty list."""
        every = share.new_empty(self.world_size if self.rank == 0 else 0, self.size)  # [W, P]
        if self.world_size == 1:
            every[0] = share
        else:
            dist.gather(share, list(every) or None, group=self.process_group, group_dst=0)
        return self.split(every) if self.rank == 0 else []

    def split(self, every: Tensor) -> list[Tensor]:
        """Return views of the full tensors in the shards [W, P] of all ranks."""
        counts = [shape.numel() for shape in self.shapes]
        parts = every.flatten()[: sum(counts)].split(counts)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def cut(self, tensors: Sequence[Tensor | None], like: Tensor) -> Tensor:
        """Return this rank's shard [P] of full tensors, with the type of `like`. None counts as zeros."""
        share = torch.zeros_like(like)
        for piece in self.layout:
            tensor = tensors[piece.member]
            if tensor is not None:
                share[piece.here] = tensor.reshape(-1)[piece.there].to(like.device)
        return share
