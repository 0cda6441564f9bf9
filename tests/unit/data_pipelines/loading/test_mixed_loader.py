import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_server import FileServer
from loader_batches import CPU, executors, same, settings, take
from noise_sets import make_set

from data_pipelines.errors import UserError
from data_pipelines.inspect.gallery import first_views
from data_pipelines.loading.loaders import EvalLoader, TrainLoader
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.shards.mixed_set import open_train_shards
from data_pipelines.shards.shard_set import ShardSet


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return make_set(tmp_path / "small", 6, ["cat", "dog"])


@pytest.fixture
def mixed(whole_set: Path, small: Path) -> ShardSet:
    """Ninety images of one set, and six of another that gives two thirds of the samples."""
    return open_train_shards(settings(train=sets(whole_set, small)))


def sets(whole_set: Path | str, small: Path | str) -> list[dict[str, Any]]:
    return [{"path": whole_set, "weight": 1}, {"path": small, "weight": 2}]


def joined(batches: list[Batch]) -> Batch:
    views = [torch.cat(views) for views in zip(*(b.views for b in batches), strict=True)]
    return Batch(views, torch.cat([b.labels for b in batches]), torch.cat([b.ids for b in batches]))


@executors
def test_ranks_share_the_global_batch_and_a_start_in_the_middle_is_exact(
    mixed: ShardSet, executor: str
) -> None:
    alone = take(mixed, settings(executor), 9)
    ranks = [take(mixed, settings(executor), 9, rank=rank, world_size=2) for rank in range(2)]
    for step in range(9):
        assert same(alone[step], joined([ranks[0][step], ranks[1][step]]))
    resumed = take(mixed, settings(executor, threads=1, prefetch=1), 4, 5)
    assert all(same(one, other) for one, other in zip(alone[5:], resumed, strict=True))


def test_both_sets_come_with_their_labels_and_fractions(mixed: ShardSet) -> None:
    batches = take(mixed, settings(), 4)  # an epoch of 96
    ids = torch.cat([batch.ids for batch in batches]).numpy()
    assert (ids >= 90).sum() == 64
    np.testing.assert_array_equal(torch.cat([b.labels for b in batches]), mixed.index["label"][ids])
    assert mixed.classes == ("ant", "bee", "cat", "dog")


def test_a_sample_that_comes_again_in_an_epoch_has_other_views(mixed: ShardSet) -> None:
    batches = take(mixed, settings(), 4)
    ids = torch.cat([batch.ids for batch in batches])
    views = torch.cat([batch.views[0] for batch in batches])[ids == 90].flatten(1)
    assert len(views) >= 10
    assert len(torch.unique(views, dim=0)) == len(views)


def test_the_gallery_shows_what_the_first_step_sees(mixed: ShardSet) -> None:
    batch = take(mixed, settings(mean=(0, 0, 0), std=(1, 1, 1)), 1)[0]
    first = first_views(mixed, settings(), seed=5, epoch=0, images=24, global_batch=24)
    assert first.samples == batch.ids.tolist()
    np.testing.assert_allclose(first.views[0], batch.views[0].permute(0, 2, 3, 1).numpy(), atol=1e-6)


def test_evaluation_sees_each_sample_once(mixed: ShardSet) -> None:
    with EvalLoader(mixed, settings(), rank=0, world_size=1, batch=40, device=CPU) as loader:
        assert torch.cat([batch.ids for batch in loader]).tolist() == list(range(96))


def test_a_bad_sample_is_recorded_with_the_folder_of_its_set(
    mixed: ShardSet, small: Path, tmp_path: Path
) -> None:
    path = small / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(mixed.index["offset"][92]) + 40] ^= 1
    path.write_bytes(data)
    given: dict[str, Any] = {"seed": 5, "rank": 0, "world_size": 1, "global_batch": 24, "device": CPU}
    config, record = settings(max_bad_fraction=0.9), tmp_path / "quarantine.jsonl"
    with TrainLoader(mixed, config, quarantine=record, **given) as loader:
        ids = torch.cat([batch.ids for batch in islice(loader.batches(0), 4)])
    assert 92 not in ids
    (entry,) = [json.loads(line) for line in record.read_text().splitlines()]
    assert entry["shard"] == f"{small}/shard-000000.tar"
    assert entry["key"] == mixed.key(92).rpartition("/")[2]


def test_a_batch_without_a_good_sample_names_the_set(small: Path, tmp_path: Path) -> None:
    folders = [small, make_set(tmp_path / "other", 7, ["cat", "dog"])]
    mixed = open_train_shards(settings(train=folders))
    for folder in folders:
        path = folder / "shard-000000.tar"
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError) as error:
        take(mixed, settings(max_bad_fraction=1), 1, global_batch=4)
    assert any(f"all4one data verify {folder} --decode" in str(error.value) for folder in folders)
    assert f"{tmp_path}/" in str(error.value).split(":")[0]


def test_shards_are_read_ahead_in_every_set(whole_set: Path, small: Path) -> None:
    config = settings(train=sets(whole_set, small), read_ahead=True)
    ahead = take(open_train_shards(config), config, 6)
    plain = take(open_train_shards(settings(train=sets(whole_set, small))), settings(), 6)
    assert all(same(one, other) for one, other in zip(ahead, plain, strict=True))


def test_remote_sets_are_mixed_through_a_shared_cache(whole_set: Path, small: Path, tmp_path: Path) -> None:
    server = FileServer(whole_set)
    try:
        local = settings(train=sets(whole_set, small))
        remote = settings(train=sets(server.url, small), cache=tmp_path / "cache")
        opened = open_train_shards(remote)
        batches = take(opened, remote, 6)
    finally:
        server.close()
    assert opened.fingerprint == open_train_shards(local).fingerprint
    assert all(same(*pair) for pair in zip(batches, take(open_train_shards(local), local, 6), strict=True))
    assert len(list(tmp_path.glob("cache/*/*.tar"))) == 4
    assert opened.key(0).startswith(f"{server.url}/shard-000000.tar/")


def test_each_remote_set_may_take_its_fraction_of_the_cache(
    whole_set: Path, small: Path, tmp_path: Path
) -> None:
    servers = [FileServer(whole_set), FileServer(small)]
    try:
        train = sets(servers[0].url, servers[1].url)
        room = 2 * max(path.stat().st_size for path in whole_set.glob("*.tar")) + 1
        opened = open_train_shards(settings(train=train, cache=tmp_path / "cache", cache_bytes=room))
        window = opened.files._parts[0]._fitting(iter([[0, 1, 2]]))  # type: ignore[union-attr]
    finally:
        for server in servers:
            server.close()
    assert len(window) == 1, "half of the cache has room for one shard"
