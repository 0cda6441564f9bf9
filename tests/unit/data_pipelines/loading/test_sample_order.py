from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from data_pipelines.loading.sample_order import SampleOrder

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
blocks = st.integers(1, 200)
seeds = st.integers(0, 2**64 - 1)


def make(shard_sizes: list[int], seed: int = 0, block: int = 10, batch: int = 1) -> SampleOrder:
    return SampleOrder(shard_sizes, seed=seed, global_batch=batch, shuffle_block=block)


@given(shard_sizes=sizes, seed=seeds, block=blocks, epoch=st.integers(0, 1000))
def test_each_sample_once_an_epoch(shard_sizes: list[int], seed: int, block: int, epoch: int) -> None:
    order = make(shard_sizes, seed, block)
    assert sorted(order.samples(epoch, 0, order.num_samples)) == list(range(sum(shard_sizes)))


@given(shard_sizes=sizes, block=blocks, data=st.data())
def test_any_cut_reads_the_same_order(shard_sizes: list[int], block: int, data: st.DataObject) -> None:
    total = sum(shard_sizes)
    straight = make(shard_sizes, block=block).samples(3, 0, total)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    np.testing.assert_array_equal(
        make(shard_sizes, block=block).samples(3, start, stop), straight[start:stop]
    )


@given(shard_sizes=sizes, block=blocks)
def test_blocks_are_whole_shards_of_at_least_the_size_asked_for(shard_sizes: list[int], block: int) -> None:
    order = make(shard_sizes, block=block)
    order.samples(0, 0, 1)
    first = np.concatenate([[0], np.cumsum(shard_sizes)])
    shard_of = np.searchsorted(first, order.samples(0, 0, order.num_samples), side="right") - 1
    # A block ends where the shards seen so far are all complete; every block but a lone one reaches the size.
    seen = dict.fromkeys(range(len(shard_sizes)), 0)
    lengths, length = [], 0
    for shard in shard_of:
        seen[shard] += 1
        length += 1
        if length >= block and all(count in (0, shard_sizes[s]) for s, count in seen.items()):
            lengths.append(length)
            length = 0
    rest = order.num_samples - sum(lengths)
    assert rest < block
    assert all(length < 2 * block + max(shard_sizes) for length in lengths)


@given(shard_sizes=sizes, seed=seeds, block=blocks, data=st.data())
def test_upcoming_names_the_shards_in_the_order_they_are_read(
    shard_sizes: list[int], seed: int, block: int, data: st.DataObject
) -> None:
    order = make(shard_sizes, seed, block)
    start = data.draw(st.integers(0, order.num_samples - 1))
    upcoming = order.upcoming(3, start)
    first = np.concatenate([[0], np.cumsum(shard_sizes)])
    current = next(upcoming)
    for epoch, position in ((3, start), (4, 0), (5, 0)):
        samples = order.samples(epoch, position, order.num_samples)
        for shard in np.searchsorted(first, samples, side="right") - 1:
            if shard not in current:
                current = next(upcoming)
            assert shard in current
        if epoch < 5:
            current = next(upcoming)


def test_upcoming_does_not_disturb_the_order() -> None:
    order, alone = make([10] * 6, block=20), make([10] * 6, block=20)
    for epoch in range(4):
        for start in range(0, 60, 10):
            assert len(list(islice(order.upcoming(epoch, start), 9))) == 9
            np.testing.assert_array_equal(
                order.samples(epoch, start, start + 10), alone.samples(epoch, start, start + 10)
            )


def test_epochs_and_seeds_differ() -> None:
    whole = {tuple(make([50] * 4, seed=seed).samples(epoch, 0, 200)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(whole) == 4


def test_the_tail_left_out_differs_each_epoch() -> None:
    order = make([30, 33], batch=20, block=63)
    assert order.steps_per_epoch == 3
    assert len({tuple(sorted(order.samples(epoch, 60, 63))) for epoch in range(4)}) > 1


def test_one_large_block_shuffles_fully() -> None:
    order = make([1000] * 4, block=4000).samples(0, 0, 4000)
    assert np.abs(np.corrcoef(order, np.arange(4000))[0, 1]) < 0.06
    assert len(np.unique(order[:100] // 1000)) == 4


def test_work_does_not_grow_with_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from data_pipelines.loading import sample_order as module

    permuted = []
    real = module.permutation

    def spy(*args: object, items: np.ndarray, **kwargs: object) -> np.ndarray:
        permuted.append(len(items))
        return real(*args, items=items, **kwargs)

    monkeypatch.setattr(module, "permutation", spy)
    order = make([100] * 1000, block=250)
    order.samples(7, 99_000, 99_010)
    assert sum(permuted) <= 1000 + 2 * (250 + 100)


def test_a_set_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match=r"has 7 samples, fewer than one global batch of 8"):
        make([3, 4], batch=8)


def test_positions_outside_the_epoch_are_refused() -> None:
    with pytest.raises(IndexError):
        make([5]).samples(0, 3, 6)
