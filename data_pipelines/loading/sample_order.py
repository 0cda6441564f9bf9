"""The order of samples in each epoch.

Each epoch permutes the shards and groups them into blocks of whole shards. The samples of a block are then permuted
together. A run therefore reads only a few shards at a time. If one block covers the dataset, the shuffle is complete.
Any position can be found from a single block.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.philox import RandomStream, permutation


class Draw(NamedTuple):
    """Samples of consecutive positions of an epoch."""

    ids: NDArray[np.int64]
    """`[n]` sample ids."""
    passes: NDArray[np.int64]
    """`[n]` number of the pass over its set that takes each sample, from 0. A pass takes a sample once, so id and pass
    together name its views. For a single set, it is the epoch."""


class Order(Protocol):
    """The order of the samples in every epoch, as loaders use it."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of global batches in an epoch."""

    def draw(self, epoch: int, start: int, stop: int) -> Draw:
        """Return the samples at positions `[start, stop)` of an epoch."""

    def upcoming(self, epoch: int, position: int) -> Iterator[list[int]]:
        """Yield the shards that are read at a position, then those of each following block, without end."""


class _Block(NamedTuple):
    start: int
    shards: NDArray[np.int64]


class SampleOrder:
    """The order of all samples in every epoch. It is the same for any number of ranks.

    Sample ids count through the shards: shard 0 has `[0, shard_sizes[0])`, and so on.

    Args:
        shard_sizes: number of samples in each shard.
        seed: seed of the run.
        global_batch: samples of one optimizer step over all ranks.
        shuffle_block: minimum number of samples that are shuffled together. A block ends with the shard that reaches
            it, and the remaining shards at the end join the last block.

    Raises:
        UserError: the dataset has fewer samples than one global batch.
    """

    def __init__(
        self, shard_sizes: Sequence[int], *, seed: int, global_batch: int, shuffle_block: int
    ) -> None:
        self._sizes = np.asarray(shard_sizes, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._sizes)])
        self.num_samples = int(self._first[-1])
        require_full_batch(self.num_samples, global_batch)
        self.seed = seed
        self.steps_per_epoch = self.num_samples // global_batch
        self._shuffle_block = shuffle_block
        self._layouts: dict[int, list[_Block]] = {}  # of the current and the next epoch
        self._cached: tuple[int, int, NDArray[np.int64]] | None = None

    def samples(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the sample ids `[stop - start]` at positions `[start, stop)` of an epoch.

        Only the affected blocks cost time and memory. Samples after the last full global batch are not used in this
        epoch. They differ from epoch to epoch.
        """
        if not 0 <= start <= stop <= self.num_samples:
            raise IndexError(f"positions [{start}, {stop}) of an epoch of {self.num_samples} samples")
        parts = []
        blocks = self._blocks(epoch)
        number = _number_at(blocks, start)
        while start < stop:
            ids = self._permuted(epoch, number, blocks[number])
            inside = ids[start - blocks[number].start : stop - blocks[number].start]
            parts.append(inside)
            start, number = start + len(inside), number + 1
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def draw(self, epoch: int, start: int, stop: int) -> Draw:
        """Return the samples at positions `[start, stop)` of an epoch. See `samples`."""
        return Draw(self.samples(epoch, start, stop), np.full(stop - start, epoch))

    def upcoming(self, epoch: int, position: int) -> Iterator[list[int]]:
        """Yield the shards of the block at a position, then of each following block, without end."""
        number = _number_at(self._blocks(epoch), position)
        while True:
            for block in self._blocks(epoch)[number:]:
                yield block.shards.tolist()
            epoch, number = epoch + 1, 0

    def _blocks(self, epoch: int) -> list[_Block]:
        if epoch in self._layouts:
            return self._layouts[epoch]
        filled = np.flatnonzero(self._sizes)
        shards = permutation(self.seed, RandomStream.SHARDS, epoch=epoch, items=filled)
        ends = np.cumsum(self._sizes[shards])
        cuts, reached = [0], 0
        for position, end in enumerate(ends):
            if end - reached >= self._shuffle_block:
                cuts.append(position + 1)
                reached = int(end)
        if len(cuts) == 1:
            cuts.append(len(shards))
        cuts[-1] = len(shards)
        blocks = [
            _Block(int(ends[first - 1]) if first else 0, shards[first:last]) for first, last in pairwise(cuts)
        ]
        if len(self._layouts) == 2:
            del self._layouts[next(iter(self._layouts))]
        self._layouts[epoch] = blocks
        return blocks

    def _permuted(self, epoch: int, number: int, block: _Block) -> NDArray[np.int64]:
        if self._cached is None or self._cached[:2] != (epoch, number):
            ids = np.concatenate(
                [np.arange(self._first[s], self._first[s + 1]) for s in np.sort(block.shards)]
            )
            self._cached = (
                epoch,
                number,
                permutation(self.seed, RandomStream.SAMPLES, epoch=epoch, items=ids),
            )
        return self._cached[2]


def require_full_batch(samples: int, global_batch: int) -> None:
    """Raise a UserError if a dataset has fewer samples than one global batch."""
    if samples < global_batch:
        raise UserError(
            f"the dataset has {samples} samples, fewer than one global batch of {global_batch}",
            fix=f"set a global batch of at most {samples}, or add data",
        )


def _number_at(blocks: list[_Block], position: int) -> int:
    return bisect_right(blocks, position, key=lambda block: block.start) - 1
