"""What every loader for training hands out: one rank's micro-batches without end, made ahead of the step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from data_pipelines.errors import UserError
from data_pipelines.loading.quarantine import Quarantine
from data_pipelines.prefetch import Prefetch, never, nothing


class Batch(NamedTuple):
    """One micro-batch of one rank."""

    views: list[Tensor]
    """V x `[b, 3, S, S]`, channels-last memory, normalized."""
    labels: Tensor
    """`[b]` int64, -1 where unlabeled."""
    ids: Tensor
    """`[b]` int64 sample ids."""


class LoadedBatch(NamedTuple):
    """A micro-batch with what its loader knows of it."""

    batch: Batch
    bad: dict[str, str]
    """Reason for each sample that could not be used, by `SHARD.tar/KEY`."""
    epoch: int
    step: int
    """Global step that the batch is for."""


@dataclass(frozen=True)
class BatchPartition:
    """The part of every global batch that one rank takes: a contiguous part of each of its micro-batches.

    Raises:
        UserError: the global batch does not divide by `accumulation * world_size`.
    """

    rank: int
    world_size: int
    global_batch: int
    accumulation: int

    def __post_init__(self) -> None:
        parts = self.world_size * self.accumulation
        if self.global_batch >= 1 and self.global_batch % parts == 0:
            return
        below = self.global_batch // parts * parts
        near = " or ".join(str(size) for size in (below, below + parts) if size > 0)
        raise UserError(
            f"a global batch of {self.global_batch} does not divide over {self.world_size} processes with "
            f"{self.accumulation} micro-batches each",
            fix=f"set a global batch of {near}",
        )

    @property
    def batch(self) -> int:
        """Samples of this rank in a micro-batch."""
        return self.global_batch // (self.world_size * self.accumulation)

    @property
    def starts(self) -> range:
        """Where in a global batch this rank's part of each micro-batch begins."""
        micro_batch = self.global_batch // self.accumulation
        return range(self.rank * self.batch, self.global_batch, micro_batch)


class PrefetchingBatches:
    """Batches made in a thread, with an account of the samples that could not be used.

    Args:
        make: gives the batches from a global step on; called in the thread.
        depth: batches that wait ready, at most.
        quarantine: account of bad samples.
        end_reads: makes the reads of `make` end soon.
        give_up: polled while a batch is waited for; true ends the batches there.
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
        """Time that the consumer has waited in all."""
        return self._waited + (self._prefetch.wait_seconds if self._prefetch else 0.0)

    @property
    def bad_samples(self) -> int:
        """Samples that could not be used so far."""
        return self._quarantine.bad

    def batches(self, start_step: int) -> Iterator[Batch]:
        """The batches from a global step on; a new call stops what an earlier one began.

        Raises:
            TooManyBadSamples: more samples turned bad than are allowed.
            Exception: what `make` raises, in its place.
        """
        self.stop()
        self._prefetch = prefetch = Prefetch(
            partial(self._make, start_step), self._depth, end_reads=self._end_reads, give_up=self._give_up
        )
        try:
            for made in prefetch:
                self._quarantine.note(len(made.batch.ids), made.bad, epoch=made.epoch, step=made.step)
                yield made.batch
        finally:
            if self._prefetch is prefetch:
                self.stop()

    def stop(self) -> None:
        """End the thread. Idempotent."""
        prefetch, self._prefetch = self._prefetch, None
        if prefetch is not None:  # taken first: another thread may stop it too
            prefetch.close()
            self._waited += prefetch.wait_seconds
