from itertools import islice

import numpy as np
import pytest
import torch
from loader_batches import CPU, executors, same, settings, take

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.shards.shard_set import ShardSet


def joined(batches: list[Batch]) -> Batch:
    return Batch(
        [torch.cat(views) for views in zip(*(b.views for b in batches), strict=True)],
        torch.cat([b.labels for b in batches]),
        torch.cat([b.ids for b in batches]),
    )


@executors
def test_batches_hold_what_they_promise(shards: ShardSet, executor: str) -> None:
    batch = take(shards, settings(executor), 1)[0]
    assert [view.shape for view in batch.views] == [(24, 3, 16, 16), (24, 3, 24, 24)]
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
    assert batch.labels.dtype == batch.ids.dtype == torch.int64
    np.testing.assert_array_equal(batch.labels, shards.index["label"][batch.ids.numpy()])
    assert len(set(batch.ids.tolist())) == 24


@executors
def test_ranks_share_the_global_batch_exactly(shards: ShardSet, executor: str) -> None:
    alone = take(shards, settings(executor), 8)
    ranks = [take(shards, settings(executor), 8, rank=rank, world_size=2) for rank in range(2)]
    for step in range(8):
        assert same(alone[step], joined([ranks[0][step], ranks[1][step]]))


@executors
def test_accumulation_cuts_the_same_global_batch(shards: ShardSet, executor: str) -> None:
    alone = take(shards, settings(executor), 4)
    ranks = [
        take(shards, settings(executor), 12, rank=rank, world_size=2, accumulation=3) for rank in range(2)
    ]
    for step in range(4):
        parts = [ranks[rank][3 * step + micro] for micro in range(3) for rank in range(2)]
        assert same(alone[step], joined(parts))


@executors
@pytest.mark.parametrize("start", [1, 3, 7])
def test_a_start_in_the_middle_is_exact(shards: ShardSet, executor: str, start: int) -> None:
    straight = take(shards, settings(executor), 9, accumulation=2)
    resumed = take(
        shards, settings(executor, threads=1, prefetch=1), 9 - 2 * (start // 2), start // 2, accumulation=2
    )
    for one, other in zip(straight[2 * (start // 2) :], resumed, strict=True):
        assert same(one, other)


def test_an_epoch_holds_each_sample_at_most_once(shards: ShardSet) -> None:
    batches = take(shards, settings(), 6)
    for epoch in range(2):
        ids = torch.cat([batch.ids for batch in batches[3 * epoch : 3 * epoch + 3]])
        assert len(ids.unique()) == 72


def test_one_loader_starts_anywhere_again(shards: ShardSet) -> None:
    with TrainLoader(shards, settings(), seed=5, rank=0, world_size=1, global_batch=24, device=CPU) as loader:
        assert loader.steps_per_epoch == 3
        first = list(islice(loader.batches(0), 4))
        again = list(islice(loader.batches(2), 2))
        assert same(first[2], again[0])
        assert same(first[3], again[1])
        assert loader.wait_seconds > 0
        loader.close()


@executors
def test_half_precision(shards: ShardSet, executor: str) -> None:
    full, half = (
        take(shards, settings(executor), 1, dtype=dtype)[0].views[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), full, atol=0, rtol=2**-8)


@pytest.mark.parametrize(
    ("batch", "world", "accumulation", "near"),
    [(24, 5, 1, "20 or 25"), (24, 4, 4, "16 or 32"), (3, 8, 1, "8")],
)
def test_a_batch_that_does_not_divide_names_the_nearest_that_do(
    shards: ShardSet, batch: int, world: int, accumulation: int, near: str
) -> None:
    with pytest.raises(UserError, match=f"set a global batch of {near}$"):
        take(shards, settings(), 1, global_batch=batch, world_size=world, accumulation=accumulation)


def test_a_batch_larger_than_the_set_is_refused(shards: ShardSet) -> None:
    with pytest.raises(UserError, match="has 90 samples, fewer than one global batch of 96"):
        take(shards, settings(), 1, global_batch=96)
