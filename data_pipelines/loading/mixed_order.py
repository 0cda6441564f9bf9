"""The order of samples in a mix of several sets.

An epoch has as many samples as the sets have together, as far as they fill global batches. Each set gives a fixed
number of them. Every set is walked through again and again, each time in a new order, and each epoch goes on where the
one before ended. A large fraction therefore repeats a set within an epoch, and a small one spreads it over several
epochs. In both cases, no sample comes again before all others of its set came as often.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from data_pipelines.errors import UserError
from data_pipelines.loading.sample_order import Draw, Order, SampleOrder, require_full_batch
from data_pipelines.philox import RandomStream, sort_keys, uniforms
from data_pipelines.shards.mixed_set import split_by_fractions
from data_pipelines.shards.shard_set import ShardSet

_WINDOW = 256
"""About how many samples form a window. Inside of it, the sets are in random order. Each window has the fractions of
the sets, to within one sample of each. Without windows, a set with half of the samples would have 128 samples of a
batch of 256 with a standard deviation of 8."""
_OFFSETS = 1
"""Lane of the random numbers that place the windows. Lane 0 has the order inside the windows."""


def order_of(shards: ShardSet, *, seed: int, global_batch: int, shuffle_block: int) -> Order:
    """Return the order in which a run sees a training set, or a mix of several sets.

    Args:
        shards: the training set.
        seed: seed of the run.
        global_batch: samples of one optimizer step over all ranks.
        shuffle_block: minimum number of samples of a set that are shuffled together.

    Raises:
        UserError: as for `SampleOrder` and `MixedOrder`.
    """
    sizes = shards.shard_sizes
    if shards.mix is None:
        return SampleOrder(sizes, seed=seed, global_batch=global_batch, shuffle_block=shuffle_block)
    ends = [*accumulate(shards.mix.num_shards)]
    return MixedOrder(
        [sizes[first:end] for first, end in zip([0, *ends], ends, strict=False)],
        shards.mix.fractions,
        seed=seed,
        global_batch=global_batch,
        shuffle_block=shuffle_block,
    )


class MixedOrder:
    """The order of the samples of several sets in every epoch. It is the same for any number of ranks.

    Sample ids count through the shards of the first set, then through those of the second one, and so on.

    Args:
        shard_sizes: number of samples in each shard of each set.
        fractions: fraction of the samples of an epoch that each set gives. They add up to 1.
        seed: seed of the run.
        global_batch: samples of one optimizer step over all ranks.
        shuffle_block: minimum number of samples of a set that are shuffled together, as in `SampleOrder`.

    Raises:
        UserError: the sets have fewer samples together than one global batch, or a set would give no sample.
    """

    def __init__(
        self,
        shard_sizes: Sequence[Sequence[int]],
        fractions: Sequence[Fraction],
        *,
        seed: int,
        global_batch: int,
        shuffle_block: int,
    ) -> None:
        samples = sum(map(sum, shard_sizes))
        require_full_batch(samples, global_batch)
        self.steps_per_epoch = samples // global_batch
        self.num_samples = self.steps_per_epoch * global_batch
        """Number of samples in an epoch."""
        self.samples_per_epoch = split_by_fractions(self.num_samples, fractions)
        """Number of samples that each set gives in an epoch."""
        for number, (samples_of_set, fraction) in enumerate(
            zip(self.samples_per_epoch, fractions, strict=True)
        ):
            if samples_of_set == 0:
                raise UserError(
                    f"the weight gives this set {float(fraction):.2g} of the samples, which is none of an epoch of "
                    f"{self.num_samples:,}",
                    where=f"data.train.{number}",
                    fix="give it a larger weight, or remove it",
                )
        # The upper half of a seed is free in a run. Sets of the same size get other orders by it.
        self._orders = [
            SampleOrder(sizes, seed=seed ^ (number << 32), global_batch=1, shuffle_block=shuffle_block)
            for number, sizes in enumerate(shard_sizes)
        ]
        self._first_ids = [0, *accumulate(order.num_samples for order in self._orders)]
        self._first_shards = [0, *accumulate(map(len, shard_sizes))]
        self._seed, self._windows = seed, max(1, self.num_samples // _WINDOW)

    def draw(self, epoch: int, start: int, stop: int) -> Draw:
        """Return the samples at positions `[start, stop)` of an epoch.

        Only the affected blocks of the sets cost time and memory.
        """
        if not 0 <= start <= stop <= self.num_samples:
            raise IndexError(f"positions [{start}, {stop}) of an epoch of {self.num_samples} samples")
        sets, turns = self._turns(epoch, start, stop)
        ids, passes = np.empty_like(sets), np.empty_like(sets)
        for number, order in enumerate(self._orders):
            rows = np.flatnonzero(sets == number)
            while len(rows):
                turn, inside = divmod(self._walked(epoch, number, turns[rows[0]]), order.num_samples)
                now, rows = np.split(rows, [order.num_samples - inside])
                ids[now] = self._first_ids[number] + order.samples(turn, inside, inside + len(now))
                passes[now] = turn
        return Draw(ids, passes)

    def upcoming(self, epoch: int, position: int) -> Iterator[list[int]]:
        """Yield the shards of the blocks of all sets at a position, then of the following block of each, without
        end."""
        offsets = self._offsets(epoch)
        window = self._window_at(offsets, position)
        end = sum(self._begun(window + 1, number, offsets) for number in range(len(self._orders)))
        sets, turns = self._turns(epoch, position, end)
        blocks = []
        for number, (order, first) in enumerate(zip(self._orders, self._first_shards, strict=False)):
            inside_window = turns[sets == number]
            next_turn = inside_window[0] if len(inside_window) else self._begun(window + 1, number, offsets)
            turn, inside = divmod(self._walked(epoch, number, next_turn), order.num_samples)
            blocks.append(_shifted(order.upcoming(turn, inside), first))
        for together in zip(*blocks, strict=True):
            yield [*chain.from_iterable(together)]

    def _walked(self, epoch: int, number: int, turn: int) -> int:
        """Return how many samples a set has given in the whole run before one of its turns in an epoch."""
        return epoch * self.samples_per_epoch[number] + int(turn)

    def _turns(self, epoch: int, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the set of each position `[stop - start]`, and how many samples that set gives before it in the
        epoch."""
        if start == stop:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        offsets = self._offsets(epoch)
        first, last = self._window_at(offsets, start), self._window_at(offsets, stop - 1)
        numbers = range(len(self._orders))
        begun = np.array(
            [
                [self._begun(window, number, offsets) for number in numbers]
                for window in range(first, last + 2)
            ]
        )  # [windows + 1, sets]
        counts = np.diff(begun, axis=0)
        sets = np.repeat(np.tile(np.arange(len(numbers)), len(counts)), counts.ravel())
        windows = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
        position = int(begun[0].sum())
        positions = np.arange(position, position + len(sets))
        keys = sort_keys(self._seed, RandomStream.MIXING, epoch=epoch, items=positions)
        sets = sets[np.lexsort((keys, windows))]
        turns = np.empty_like(sets)
        for number in numbers:
            rows = np.flatnonzero(sets == number)
            turns[rows] = begun[0, number] + np.arange(len(rows))
        inside = slice(start - position, stop - position)
        return sets[inside], turns[inside]

    def _offsets(self, epoch: int) -> list[int]:
        """Return a random number below `_windows` for each set. It moves the windows in which a rare set appears."""
        items = np.arange(len(self._orders))
        drawn = uniforms(self._seed, RandomStream.MIXING, epoch=epoch, items=items, lane=_OFFSETS, count=1)
        return [int(value) for value in drawn[:, 0] * self._windows]

    def _begun(self, window: int, number: int, offsets: Sequence[int]) -> int:
        """Return how many samples a set gives in an epoch before a window. They are spread evenly over the windows."""
        return (window * self.samples_per_epoch[number] + offsets[number]) // self._windows

    def _window_at(self, offsets: Sequence[int], position: int) -> int:
        def start(window: int) -> int:
            return sum(self._begun(window, number, offsets) for number in range(len(self._orders)))

        return min(bisect_right(range(self._windows + 1), position, key=start), self._windows) - 1


def _shifted(blocks: Iterator[list[int]], first: int) -> Iterator[list[int]]:
    for block in blocks:
        yield [first + shard for shard in block]
