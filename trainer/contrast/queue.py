"""The queue of past keys in which neighbors are searched."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.settings import Settings
from trainer.contrast.neighbor_search import Bf16Index, topk_indices
from trainer.distributed.collectives import PendingGather, pack, start_gather, unpack


class QueueSettings(Settings):
    """Settings of the neighbor queue."""

    first_names = {"length": "size"}

    size: int = Field(98304, ge=1)
    """Number of keys in the queue. It does not have to be a multiple of the batch size."""
    score_bytes: int = Field(256 * 2**20, ge=2**10)
    """Maximum memory for similarity scores, in bytes. Larger products are computed in chunks of rows."""
    check_every: int = Field(500, ge=0)
    """Steps between comparisons of the queue alone across ranks. `guard.check_replicas_every` compares all state, the
    queue included. 0: never."""


class Neighbors(NamedTuple):
    """The most similar rows of the queue for each key, most similar first."""

    rows: Tensor  # [B, k, D]
    indices: Tensor  # [B, k] int64, their positions in the queue


class _Overwritten(NamedTuple):
    """What a push has overwritten."""

    place: Tensor  # [rows] int64
    rows: Tensor  # [rows, D]
    labels: Tensor  # [rows]
    ids: Tensor  # [rows]
    keys: int
    """Number of keys of the push. It exceeds that of the rows if a batch is larger than the ring."""


class NeighborQueue(nn.Module):
    """A ring buffer of N normalized keys with labels and sample ids, identical on every rank.

    It starts with random directions, label -1 and id -1. Mixed precision does not apply to it: keys are float32.
    """

    rows: Tensor  # [N, D]
    labels: Tensor  # [N]
    ids: Tensor  # [N]
    head: Tensor  # [] position of the next key

    def __init__(self, settings: QueueSettings, dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("rows", F.normalize(torch.randn(settings.size, dim), dim=1))
        self.register_buffer("labels", torch.full((settings.size,), -1))
        self.register_buffer("ids", torch.full((settings.size,), -1))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self._rounded = Bf16Index()
        self._pending: PendingGather | None = None
        self._views = 1  # of the pending push
        self.push_size = 0
        """Number of keys of the last push, over all ranks. It may still be pending."""
        self._overwritten = deque[list[_Overwritten]]([[]], maxlen=1)  # one list for each step

    @torch.no_grad()
    def nearest(self, keys: list[Tensor], k: int) -> list[Neighbors]:
        """Return the k rows with the largest dot product with each key, for several views of [B, D] at once.

        Scores have the queue's precision, also under autocast, because cosines near 1 would tie in bf16.
        """
        stacked = torch.cat(keys)  # [V * B, D]
        search = self._rounded.topk_indices if Bf16Index.useful(self.rows) else topk_indices
        with torch.autocast(stacked.device.type, enabled=False):
            index = search(self.rows, stacked, k, self.settings.score_bytes)
        return [Neighbors(self.rows[i], i) for i in index.chunk(len(keys))]

    def agreement(self, found: Neighbors, labels: Tensor) -> Tensor:
        """Return the fraction of rows [B] whose nearest neighbor has the same label.

        Rows without a label, or whose neighbor has none, are not counted. Queue rows not yet filled have no label. The
        result is NaN if no row counts.
        """
        nearest = found.indices[:, 0]
        theirs = self.labels[nearest]
        known = (labels >= 0) & ((theirs >= 0) | (self.ids[nearest] < 0))
        return (known & (theirs == labels)).sum() / known.sum()

    def enqueue_async(self, keys: Sequence[Tensor], labels: Tensor, ids: Tensor) -> None:
        """Start gathering this rank's keys of one or more views [B, D], labels [B] and ids [B], in one message.

        `wait` then writes them to the ring.
        """
        self._pending, self._views = start_gather(pack(*keys, labels, ids)), len(keys)
        self.push_size = len(self._pending.out) * self._views

    @torch.no_grad()
    def wait(self) -> None:
        """Write the keys of `enqueue_async` over the oldest rows, view by view in rank order.

        Without a pending push it does nothing. A key that is not finite is not written, because it would stay for many
        steps.
        """
        if self._pending is None:
            return
        *views, labels, ids = unpack(
            self._pending.result(), *[self.rows] * self._views, self.labels, self.ids
        )
        self._pending = None
        keys, labels, ids = torch.cat(views), labels.repeat(self._views), ids.repeat(self._views)
        # if a batch is larger than the ring, only its last rows remain
        surplus = max(0, len(keys) - len(self.rows))
        place = (
            torch.arange(surplus, len(keys), device=keys.device).add_(self.head).remainder_(len(self.rows))
        )
        usable = keys[surplus:].isfinite().all(1)  # [rows]
        old = _Overwritten(place, self.rows[place], self.labels[place], self.ids[place], len(keys))
        self._overwritten[-1].append(old)
        self.rows[place] = torch.where(usable[:, None], keys[surplus:], old.rows)
        self._rounded.follow(self.rows, place)
        self.labels[place] = torch.where(usable, labels[surplus:], old.labels)
        self.ids[place] = torch.where(usable, ids[surplus:], old.ids)
        self.head.add_(len(keys)).remainder_(len(self.rows))

    def begin_step(self, undoable: int) -> None:
        """Begin a step.

        Args:
            undoable: number of steps, this one included, that can be undone. The pushes of those before will stay.
        """
        self._overwritten = deque([*self._overwritten, []], maxlen=undoable)

    @torch.no_grad()
    def undo_step(self) -> None:
        """Take back the pushes of the last step that is not undone yet, and drop a pending one."""
        self._pending = None
        for old in reversed(self._overwritten.pop()):
            self.rows[old.place], self.labels[old.place], self.ids[old.place] = old.rows, old.labels, old.ids
            self.head.sub_(old.keys).remainder_(len(self.rows))
