"""The queue of past keys that neighbors are looked up in."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.settings import Settings
from trainer.contrast.neighbor_search import Bf16Index, topk_indices
from trainer.distributed.collectives import PendingGather, pack, start_gather, unpack, world_size


class QueueSettings(Settings):
    """Settings of the neighbor queue."""

    first_names = {"length": "size"}

    size: int = Field(98304, ge=1)
    """Keys held. Need not be a multiple of the batch."""
    score_bytes: int = Field(256 * 2**20, ge=2**10)
    """Memory that similarity scores may take at once, bytes; larger products are done in chunks of rows."""
    check_every: int = Field(500, ge=0)
    """Steps between comparisons of the queue across ranks; 0: never."""


class Neighbors(NamedTuple):
    """The best rows of the queue for each key, best first."""

    rows: Tensor  # [B, k, D]
    indices: Tensor  # [B, k] int64, where they stand in the queue


class NeighborQueue(nn.Module):
    """A ring of N normalized keys with their labels and sample ids, the same on every rank.

    It starts as random directions with label and id -1. It is never cast by mixed precision: keys come in float32.
    """

    rows: Tensor  # [N, D]
    labels: Tensor  # [N]
    ids: Tensor  # [N]
    head: Tensor  # [] where the next key goes

    def __init__(self, settings: QueueSettings, dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("rows", F.normalize(torch.randn(settings.size, dim), dim=1))
        self.register_buffer("labels", torch.full((settings.size,), -1))
        self.register_buffer("ids", torch.full((settings.size,), -1))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self._rounded = Bf16Index()
        self._pending: PendingGather | None = None
        self._views = 1  # of the push under way

    @torch.no_grad()
    def nearest(self, keys: list[Tensor], k: int) -> list[Neighbors]:
        """The k rows with the largest dot product with each key, for several views of [B, D] at once.

        By scores in the queue's precision, also under autocast: cosines near 1 would tie in bf16.
        """
        stacked = torch.cat(keys)  # [V * B, D]
        search = self._rounded.topk_indices if Bf16Index.useful(self.rows) else topk_indices
        with torch.autocast(stacked.device.type, enabled=False):
            index = search(self.rows, stacked, k, self.settings.score_bytes)
        return [Neighbors(self.rows[i], i) for i in index.chunk(len(keys))]

    def agreement(self, found: Neighbors, labels: Tensor) -> Tensor:
        """Share of the rows [B] whose nearest neighbor has their label, of those where neither image lacks one; NaN
        where there are none. A row that no image has filled yet has nobody's label.
        """
        nearest = found.indices[:, 0]
        theirs = self.labels[nearest]
        known = (labels >= 0) & ((theirs >= 0) | (self.ids[nearest] < 0))
        return (known & (theirs == labels)).sum() / known.sum()

    def enqueue_async(self, keys: Sequence[Tensor], labels: Tensor, ids: Tensor) -> None:
        """Begin to gather this rank's keys of one or more views [B, D], labels [B] and ids [B], in one message;
        `wait` enters them in the ring.
        """
        self._pending, self._views = start_gather(pack(*keys, labels, ids)), len(keys)

    @property
    def num_pending(self) -> int:
        """Keys that the push under way will enter; 0 where there is none."""
        return 0 if self._pending is None else len(self._pending.out) * self._views

    @torch.no_grad()
    def wait(self) -> None:
        """Enter what `enqueue_async` gathered, view by view in rank order, over the oldest rows. Without one it does
        nothing.

        A key that is not finite enters nothing: no later step would be rid of it.
        """
        if self._pending is None:
            return
        *views, labels, ids = unpack(
            self._pending.result(), *[self.rows] * self._views, self.labels, self.ids
        )
        self._pending = None
        keys, labels, ids = torch.cat(views), labels.repeat(self._views), ids.repeat(self._views)
        # of a batch beyond the ring its last rows are what remains
        surplus = max(0, len(keys) - len(self.rows))
        place = (
            torch.arange(surplus, len(keys), device=keys.device).add_(self.head).remainder_(len(self.rows))
        )
        usable = keys[surplus:].isfinite().all(1)  # [rows]
        self.rows[place] = torch.where(usable[:, None], keys[surplus:], self.rows[place])
        self._rounded.follow(self.rows, place)
        self.labels[place] = torch.where(usable, labels[surplus:], self.labels[place])
        self.ids[place] = torch.where(usable, ids[surplus:], self.ids[place])
        self.head.add_(len(keys)).remainder_(len(self.rows))

    @torch.no_grad()
    def is_synchronized(self) -> bool:
        """Whether all ranks hold the same queue, bit for bit (by a checksum of integers)."""
        if world_size() == 1:
            return True
        words = self.rows.view(torch.int32).to(torch.int64)
        weight = torch.arange(1, words.shape[0] + 1, device=words.device)[:, None]
        digest = torch.stack(
            [(words * weight).sum(), (self.labels * weight[:, 0]).sum(), self.ids.sum(), self.head]
        )
        low, high = digest.clone(), digest.clone()
        dist.all_reduce(low, op=dist.ReduceOp.MIN)
        dist.all_reduce(high, op=dist.ReduceOp.MAX)
        return bool((low == high).all())
