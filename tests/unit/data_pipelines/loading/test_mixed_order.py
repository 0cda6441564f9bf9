from collections import Counter
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from data_pipelines.errors import UserError
from data_pipelines.loading.mixed_order import MixedOrder
from data_pipelines.loading.sample_order import Draw
from data_pipelines.shards.mixed_set import split_by_fractions

sets = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4).filter(any), min_size=1, max_size=4)
positive = st.fractions(min_value=Fraction(1, 10), max_value=10, max_denominator=20)


@st.composite
def mixes(draw: st.DrawFn) -> MixedOrder:
    shard_sizes = draw(sets)
    weights = draw(st.lists(positive, min_size=len(shard_sizes), max_size=len(shard_sizes)))
    batch = draw(st.integers(1, sum(map(sum, shard_sizes))))
    try:
        return make(shard_sizes, weights, batch=batch, seed=draw(st.integers(0, 2**31 - 1)))
    except UserError:
        assume(False)
        raise


def make(
    shard_sizes: list[list[int]], weights: list[Fraction], *, batch: int = 1, seed: int = 0, block: int = 10
) -> MixedOrder:
    fractions = [Fraction(weight) / sum(weights) for weight in weights]
    return MixedOrder(shard_sizes, fractions, seed=seed, global_batch=batch, shuffle_block=block)


def whole(order: MixedOrder, epoch: int) -> Draw:
    return order.draw(epoch, 0, order.num_samples)


def sets_of(order: MixedOrder, ids: np.ndarray) -> np.ndarray:
    return np.searchsorted(order._first_ids, ids, side="right") - 1


@given(samples=st.integers(0, 10_000), weights=st.lists(positive, min_size=1, max_size=6))
def test_a_split_is_exact_to_less_than_a_sample(samples: int, weights: list[Fraction]) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    parts = split_by_fractions(samples, fractions)
    assert sum(parts) == samples
    assert all(abs(part - samples * f) < 1 for part, f in zip(parts, fractions, strict=True))


@given(order=mixes(), epoch=st.integers(0, 1000))
def test_each_set_gives_its_exact_number_in_every_epoch(order: MixedOrder, epoch: int) -> None:
    counts = Counter(sets_of(order, whole(order, epoch).ids).tolist())
    assert [counts[number] for number in range(len(order.samples_per_epoch))] == order.samples_per_epoch


@given(order=mixes(), epochs=st.integers(1, 6))
def test_no_sample_comes_again_before_all_others_of_its_set_came_as_often(
    order: MixedOrder, epochs: int
) -> None:
    seen = np.zeros(order._first_ids[-1], int)
    for epoch in range(epochs):
        ids = whole(order, epoch).ids
        for sample in ids.tolist():
            seen[sample] += 1
    for first, end in zip(order._first_ids, order._first_ids[1:], strict=False):
        assert np.ptp(seen[first:end]) <= 1


@given(order=mixes())
def test_every_sample_is_seen_in_time(order: MixedOrder) -> None:
    sizes = np.diff(order._first_ids)
    epochs = max(-(-size // given) for size, given in zip(sizes, order.samples_per_epoch, strict=True))
    assume(epochs <= 40)
    seen = {sample for epoch in range(epochs) for sample in whole(order, epoch).ids.tolist()}
    assert len(seen) == sizes.sum()


@given(order=mixes(), epochs=st.integers(1, 4))
def test_a_sample_and_its_pass_come_once_so_no_two_views_are_the_same(order: MixedOrder, epochs: int) -> None:
    drawn = [whole(order, epoch) for epoch in range(epochs)]
    pairs = [pair for one in drawn for pair in zip(one.ids.tolist(), one.passes.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs)


@given(order=mixes(), epoch=st.integers(0, 1000), data=st.data())
def test_any_cut_reads_the_same_order(order: MixedOrder, epoch: int, data: st.DataObject) -> None:
    straight = whole(order, epoch)
    start = data.draw(st.integers(0, order.num_samples))
    stop = data.draw(st.integers(start, order.num_samples))
    cut = order.draw(epoch, start, stop)
    np.testing.assert_array_equal(cut.ids, straight.ids[start:stop])
    np.testing.assert_array_equal(cut.passes, straight.passes[start:stop])


@given(parts=st.sampled_from([1, 2, 3, 4, 6, 12]), epoch=st.integers(0, 50))
def test_ranks_read_the_same_batches_for_any_number_of_ranks(parts: int, epoch: int) -> None:
    order = make([[400, 300], [200, 90]], [Fraction(1), Fraction(2)], batch=24)
    alone = order.draw(epoch, 24, 48).ids
    size = 24 // parts
    ranks = [order.draw(epoch, 24 + rank * size, 24 + (rank + 1) * size).ids for rank in range(parts)]
    np.testing.assert_array_equal(np.concatenate(ranks), alone)


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 100))
def test_sets_are_spread_evenly(seed: int, epoch: int) -> None:
    order = make([[3000], [500], [7]], [Fraction(5), Fraction(4), Fraction(1)], batch=100, seed=seed)
    came = np.stack([sets_of(order, whole(order, epoch).ids) == number for number in range(3)])
    came = came.cumsum(axis=1)
    expected = np.outer([0.5, 0.4, 0.1], np.arange(1, order.num_samples + 1))
    # Within a window of about 256 samples the order is random. Five standard deviations of a half window.
    assert np.abs(came - expected).max() < 60
    ends = np.abs(came - expected)[:, [order.num_samples // 2, -1]]
    assert ends[:, -1].max() < 1


def test_equal_weights_of_size_are_the_plain_concatenation() -> None:
    order = make([[60, 40], [30]], [Fraction(100), Fraction(30)], batch=10)
    assert order.samples_per_epoch == [100, 30]
    for epoch in range(3):
        assert sorted(whole(order, epoch).ids) == list(range(130))


def test_the_window_places_of_a_rare_set_differ_between_epochs() -> None:
    order = make([[5000], [5]], [Fraction(4999), Fraction(1)])
    assert order.samples_per_epoch[1] == 1
    places = {int(np.flatnonzero(sets_of(order, whole(order, epoch).ids))[0]) for epoch in range(20)}
    assert len(places) > 15
    assert min(places) < 1500
    assert max(places) > 3500


def test_sets_of_the_same_size_have_different_orders() -> None:
    order = make([[50], [50]], [Fraction(1), Fraction(1)])
    ids = whole(order, 0).ids
    assert ids[ids < 50].tolist() != (ids[ids >= 50] - 50).tolist()


@given(order=mixes(), epoch=st.integers(0, 20), data=st.data())
def test_upcoming_names_the_shards_in_the_order_they_are_read(
    order: MixedOrder, epoch: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, order.num_samples - 1))
    sizes = [size for one in order._orders for size in one._sizes.tolist()]
    first = [0, *accumulate(sizes)]
    upcoming = order.upcoming(epoch, start)
    shards = np.searchsorted(first, order.draw(epoch, start, order.num_samples).ids, side="right") - 1
    asked: dict[int, list[list[int]]] = {number: [] for number in range(len(order._orders))}
    owners = np.repeat(np.arange(len(order._orders)), [len(one._sizes) for one in order._orders])

    def next_blocks() -> None:
        for number, block in asked.items():
            block.append([])
            del number
        for shard in next(upcoming):
            asked[int(owners[shard])][-1].append(shard)

    next_blocks()
    now = dict.fromkeys(asked, 0)
    for shard in shards.tolist():
        number = int(owners[shard])
        while shard not in asked[number][now[number]]:
            now[number] += 1
            if now[number] == len(asked[number]):
                next_blocks()


def test_a_weight_that_gives_no_sample_is_refused() -> None:
    with pytest.raises(UserError) as error:
        make([[100], [100]], [Fraction(1), Fraction(1, 1000)], batch=10)
    assert str(error.value).startswith("data.train.1: the weight gives this set 0.001 of the samples")
    assert "remove it" in str(error.value)


def test_a_batch_larger_than_all_sets_is_refused() -> None:
    with pytest.raises(UserError, match="the dataset has 7 samples, fewer than one global batch of 8"):
        make([[3], [4]], [Fraction(1), Fraction(1)], batch=8)


def test_positions_outside_of_the_epoch_are_an_error() -> None:
    with pytest.raises(IndexError):
        make([[3], [4]], [Fraction(1), Fraction(1)]).draw(0, 5, 8)
