"""Micro-batches of one rank, made in a background thread before the step needs them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.formatting import nearest_multiples
from data_pipelines.loading.quarantine import Quarantine
from data_pipelines.prefetch import Prefetch, never, nothing


class Batch(NamedTuple):
    """One micro-batch of one rank."""

    views: list[Tensor]
    """V x `[b, 3, S, S]`, channels-last memory, normalized. A loader for a GPU yields pixels (uint8), which
    `MicroBatchLoader.on_device` normalizes."""
    labels: Tensor
    """`[b]` int64, -1 if unlabeled."""
    ids: Tensor
    """`[b]` int64 sample ids."""


class LoadedBatch(NamedTuple):
    """A micro-batch with information from its loader."""

    batch: Batch
    bad: dict[str, str]
    """Reason for each unusable sample, by `SHARD.tar/KEY`."""
    epoch: int
    step: int
    """Global step of the batch."""
    failed_shards: Mapping[str, str] = {}
    """Reason for each shard that failed since the last batch, by name."""


@dataclass(frozen=True)
class BatchPartition:
    """The part of every global batch that one rank takes: a contiguous part of each micro-batch.

    Raises:
        UserError: the global batch is not a multiple of `accumulation * world_size`.
    """

    rank: int
    world_size: int
    global_batch: int
    accumulation: int

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulation
        if self.global_batch >= 1 and self.global_batch % parts == 0:
            return
        near = " or ".join(map(str, nearest_multiples(self.global_batch, parts)))
        raise UserError(
            f"a global batch of {self.global_batch} cannot be split evenly over {self.world_size} processes with "
            f"{self.accumulation} micro-batches each",
            fix=f"set a global batch of {near}",
        )

    @property
    def batch(self) -> int:
        """Number of samples of this rank in a micro-batch."""
        return self.global_batch // (self.world_size * self.accumulation)

    @property
    def starts(self) -> range:
        """Start of this rank's part of each micro-batch within the global batch."""
        micro_batch = self.global_batch // self.accumulation
        return range(self.rank * self.batch, self.global_batch, micro_batch)


class PrefetchingBatches:
    """Batches made in a background thread, with a count of unusable samples.

    Args:
        make: returns the batches from a global step on. It runs in the thread.
        depth: maximum number of ready batches.
        quarantine: count of bad samples.
        end_reads: makes the reads of `make` end soon.
        give_up: polled while waiting for a batch. If it returns true, the batches end.
    """

    def __init__(
        self,
        make: Callable[[int], Iterator[LoadedBatch]],
        depth: int,
        quarantine: Quarantine,
        *,
        end_reads: Callable[[], None] = nothing,
        give_up: Callable[[], bool] = never,
    ) -> None:
        self._make, self._depth, self._quarantine = make, depth, quarantine
        self._end_reads, self._give_up = end_reads, give_up
        self._prefetch: Prefetch[LoadedBatch] | None = None
        self._waited = 0.0

    @property
    def wait_seconds(self) -> float:
        """Total time that the consumer has waited."""
        return self._waited + (self._prefetch.wait_seconds if self._prefetch else 0.0)

    @property
    def bad_samples(self) -> int:
        """Number of unusable samples so far."""
        return self._quarantine.bad

    def batches(self, start_step: int) -> Iterator[Batch]:
        """Yield the batches from a global step on. A new call stops the iteration of an earlier one.

        Raises:
            TooManyBadSamples: more samples are bad than allowed.
            Exception: an exception of `make`, when its batch is due.
        """
        self.stop()
        self._prefetch = prefetch = Prefetch(
            partial(self._make, start_step), self._depth, end_reads=self._end_reads, give_up=self._give_up
        )
        try:
            for made in prefetch:
                self._quarantine.note_shards(made.failed_shards, epoch=made.epoch, step=made.step)
                self._quarantine.note(len(made.batch.ids), made.bad, epoch=made.epoch, step=made.step)
                yield made.batch
        finally:
            if self._prefetch is prefetch:
                self.stop()

    def stop(self) -> None:
        """End the thread. Idempotent."""
        prefetch, self._prefetch = self._prefetch, None
        if prefetch is not None:  # copied first, because another thread may stop it too
            prefetch.close()
            self._waited += prefetch.wait_seconds
