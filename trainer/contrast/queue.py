"""The queue of past keys in which neighbors are searched."""

from collections import deque
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from data_pipelines.settings import Settings
from trainer.contrast.neighbor_search import Bf16Index, topk_indices
from trainer.contrast.queue_refresh import refreshed
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
    """What a push or a refresh has overwritten."""

    place: Tensor  # [rows] int64
    kept: list[Tensor]
    """[rows, …] each, of the first buffers of the queue. A refresh overwrites no labels and ids."""
    keys: int
    """Number of keys of the push, 0 for a refresh. It exceeds that of the rows if a batch is larger than the ring."""


class NeighborQueue(nn.Module):
    """A ring buffer of N normalized keys with labels and sample ids, identical on every rank.

    It starts with random directions, label -1 and id -1. Mixed precision does not apply to it: keys are float32.

    Args:
        settings: its settings.
        dim: size of a key, D.
        search_dim: size F of further vectors. A search then compares these, and returns the keys of the best ones. They
            cost 4 F bytes a row on every rank. None: a search compares the keys.
        refresh: how far rows move toward the keys whose nearest neighbors they are, as a fraction of the way. See
            `queue_refresh.py`. 0: they do not move.
    """

    rows: Tensor  # [N, D]
    search_rows: Tensor | None  # [N, F] normalized
    labels: Tensor  # [N]
    ids: Tensor  # [N]
    head: Tensor  # [] position of the next key

    def __init__(
        self, settings: QueueSettings, dim: int, search_dim: int | None = None, refresh: float = 0.0
    ) -> None:
        super().__init__()
        self.settings, self.refresh = settings, refresh
        self.register_buffer("rows", _directions(settings.size, dim))
        self.register_buffer(
            "search_rows", None if search_dim is None else _directions(settings.size, search_dim)
        )
        self.register_buffer("labels", torch.full((settings.size,), -1))
        self.register_buffer("ids", torch.full((settings.size,), -1))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self._rounded = Bf16Index()
        self._pending: PendingGather | None = None
        self._views = 1  # of the pending push
        self.push_size = 0
        """Number of keys of the last push, over all ranks. It may still be pending."""
        self._overwritten = deque[list[_Overwritten]]([[]], maxlen=1)  # one list for each step

    @property
    def searched(self) -> Tensor:
        """The vectors that a search compares, [N, F]. Without vectors of their own they are the keys [N, D]."""
        return self.rows if self.search_rows is None else self.search_rows

    @torch.no_grad()
    def nearest(self, keys: list[Tensor], k: int) -> list[Neighbors]:
        """Return the k rows whose `searched` vectors have the largest dot product with each key, for several views of
        [B, F] at once.

        Scores have the queue's precision, also under autocast, because cosines near 1 would tie in bf16.
        """
        stacked = torch.cat(keys)  # [V * B, F]
        search = self._rounded.topk_indices if Bf16Index.useful(self.searched) else topk_indices
        with torch.autocast(stacked.device.type, enabled=False):
            index = search(self.searched, stacked, k, self.settings.score_bytes)
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

    def enqueue_async(
        self,
        keys: Sequence[Tensor],
        labels: Tensor,
        ids: Tensor,
        search_keys: Sequence[Tensor] = (),
        found: Neighbors | None = None,
    ) -> None:
        """Start gathering this rank's keys of one or more views [B, D], labels [B] and ids [B], in one message.

        `wait` then writes them to the ring.

        Args:
            keys: normalized, V x [B, D].
            labels: [B].
            ids: [B].
            search_keys: normalized, V x [B, F], if the queue has vectors of their own for the search.
            found: neighbors of the first view's keys, if the queue refreshes rows.
        """
        hits = [found.indices[:, 0]] if self.refresh and found is not None else []
        self._pending = start_gather(pack(*keys, *search_keys, *hits, labels, ids))
        self._views = len(keys)
        self.push_size = len(self._pending.out) * self._views

    @torch.no_grad()
    def wait(self) -> None:
        """Refresh the rows that the keys of `enqueue_async` have hit, then write these keys over the oldest rows, view
        by view in rank order.

        Without a pending push it does nothing. A key that is not finite is not written, because it would stay for many
        steps.
        """
        if self._pending is None:
            return
        views = self._views
        like = [vector for vector in self._vectors() for _ in range(views)]
        hits_like = [self.ids] if self.refresh else []
        *gathered, labels, ids = unpack(self._pending.result(), *like, *hits_like, self.labels, self.ids)
        self._pending = None
        if self.refresh:
            hits = gathered.pop()
            self._refresh(gathered[::views], hits)
        of_buffer = (gathered[i : i + views] for i in range(0, len(gathered), views))
        stacked = [torch.cat(parts) for parts in of_buffer]  # [keys, …] each
        count, size = len(stacked[0]), len(self.rows)
        # if a batch is larger than the ring, only its last rows remain
        surplus = max(0, count - size)
        place = torch.arange(surplus, count, device=labels.device).add_(self.head).remainder_(size)
        usable = _finite([vectors[surplus:] for vectors in stacked])  # [rows]
        buffers = self._buffers_of_rows()
        old = _Overwritten(place, [buffer[place] for buffer in buffers], count)
        self._overwritten[-1].append(old)
        pushed = [*stacked, labels.repeat(views), ids.repeat(views)]
        for buffer, new, kept in zip(buffers, pushed, old.kept, strict=True):
            buffer[place] = torch.where(usable[:, None] if new.dim() > 1 else usable, new[surplus:], kept)
        self._rounded.follow(self.searched, place)
        self.head.add_(count).remainder_(size)

    def _refresh(self, keys: Sequence[Tensor], hits: Tensor) -> None:
        """Move the rows at `hits` [B] toward the keys that found them, [B, …] for each tensor of vectors. Their labels
        and ids stay."""
        vectors, usable = self._vectors(), _finite(keys)
        self._overwritten[-1].append(_Overwritten(hits, [rows[hits] for rows in vectors], 0))
        for rows, new in zip(vectors, keys, strict=True):
            rows[hits] = refreshed(rows, new, hits, usable, self.refresh)
        self._rounded.follow(self.searched, hits)

    def _vectors(self) -> list[Tensor]:
        """Return the keys [N, D], and the vectors of the search [N, F] if it has its own."""
        return [self.rows] if self.search_rows is None else [self.rows, self.search_rows]

    def _buffers_of_rows(self) -> list[Tensor]:
        """Return all buffers that have an entry for each row."""
        return [*self._vectors(), self.labels, self.ids]

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
            for buffer, kept in zip(self._buffers_of_rows(), old.kept, strict=False):
                buffer[old.place] = kept
            self.head.sub_(old.keys).remainder_(len(self.rows))


def _directions(count: int, size: int) -> Tensor:
    """Return random unit vectors [count, size]."""
    return F.normalize(torch.randn(count, size), dim=1)


def _finite(vectors: Sequence[Tensor]) -> Tensor:
    """Return which rows are finite in all of the tensors [B, …]: [B] bool."""
    return reduce(torch.logical_and, [rows.isfinite().all(1) for rows in vectors])
