import errno
import json
import os
import shutil
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Event, Thread, Timer

import pytest
import torch
from file_server import FileServer
from loader_batches import CPU, executors, same, settings, spoiled, take

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.loading.quarantine import TooManyBadSamples
from data_pipelines.loading.sample_order import SampleOrder
from data_pipelines.shards.local_files import LocalFiles
from data_pipelines.shards.shard_set import ShardSet


@executors
def test_a_bad_sample_is_replaced_by_the_next_of_its_batch(
    shards: ShardSet, whole_set: Path, tmp_path: Path, executor: str
) -> None:
    whole = take(shards, settings(executor), 2)
    last_two = whole[0].ids[-2:].tolist()
    path = tmp_path / "quarantine.jsonl"
    with (
        spoiled(whole_set, tmp_path / "set", last_two) as rotten,
        TrainLoader(
            rotten,
            settings(executor),
            seed=5,
            rank=0,
            world_size=1,
            global_batch=24,
            device=CPU,
            quarantine=path,
        ) as loader,
    ):
        got = list(islice(loader.batches(0), 2))
        assert loader.bad_samples == 2
    for view, before in zip(got[0].views, whole[0].views, strict=True):
        assert torch.equal(view[:-2], before[:-2])
        assert torch.equal(view[-2], before[0])
        assert torch.equal(view[-1], before[0])
    assert got[0].ids[-2:].tolist() == whole[0].ids[[0, 0]].tolist()
    assert same(got[1], whole[1])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [f"{e['shard']}/{e['key']}" for e in entries] == [shards.key(sample) for sample in last_two]
    assert {e["reason"] for e in entries} == {"CRC differs from the index"}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_system_that_refuses_a_shard_costs_its_samples_alone(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = take(shards, settings(max_bad_fraction=0.9), 3)
    refused, met = shards.index["shard"] == 1, 0
    pread = LocalFiles.read

    def read(files: LocalFiles, shard: int, size: int, offset: int) -> bytes:
        if shard == 1:
            raise OSError(number, os.strerror(number))
        return pread(files, shard, size, offset)

    monkeypatch.setattr(LocalFiles, "read", read)
    for got, before in zip(take(shards, settings(max_bad_fraction=0.9), 3), whole, strict=True):
        good = ~refused[before.ids.numpy()]
        met += int((~good).sum())
        assert good.any()
        assert torch.equal(got.views[0][good], before.views[0][good])
        assert not refused[got.ids.numpy()].any()
    assert met


def test_a_file_system_that_stalls_delays_batches_and_changes_none(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = take(shards, settings(), 4)
    pread, answers = LocalFiles.read, Event()

    def read(files: LocalFiles, shard: int, size: int, offset: int) -> bytes:
        if shard == 2:
            assert answers.wait(60)
        return pread(files, shard, size, offset)

    monkeypatch.setattr(LocalFiles, "read", read)
    given = {"seed": 5, "rank": 0, "world_size": 1, "global_batch": 24, "device": CPU}
    with TrainLoader(shards, settings(), **given) as loader:
        batches = loader.batches(0)
        timer = Timer(0.3, answers.set)
        timer.start()
        got = list(islice(batches, 4))
        timer.join()
        assert loader.bad_samples == 0
        assert loader.wait_seconds > 0
    assert all(same(one, other) for one, other in zip(got, whole, strict=True))


@executors
def test_a_sample_that_was_bad_when_it_was_indexed_is_replaced_too(
    whole_set: Path, tmp_path: Path, executor: str
) -> None:
    folder = shutil.copytree(whole_set, tmp_path / "set")
    shards = ShardSet.open(folder)
    png = next(i for i in range(90) if shards.read(i)[:4] == b"\x89PNG")
    path = folder / f"shard-{shards.index['shard'][png]:06d}.tar"
    data = bytearray(path.read_bytes())
    middle = int(shards.index["offset"][png]) + int(shards.index["size"][png]) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    from data_pipelines.sources.existing_shards import index_folder

    index_folder(folder)
    with TrainLoader(
        ShardSet.open(folder), settings(executor), seed=5, rank=0, world_size=1, global_batch=90, device=CPU
    ) as loader:
        batch = next(loader.batches(0))
        assert loader.bad_samples == 1
        assert png not in batch.ids.tolist()
        assert len(batch.ids) == 90


@pytest.mark.parametrize("batches", [0, 1])
def test_a_loader_closes_in_the_middle_of_a_download(
    shards: ShardSet, whole_set: Path, tmp_path: Path, batches: int
) -> None:
    whole = take(shards, settings(), 1)
    order = SampleOrder(shards.shard_sizes, seed=5, global_batch=24, shuffle_block=30)
    good = [f"shard-{number:06d}.tar" for number in next(order.upcoming(0, 0))] * batches
    with closing(FileServer(whole_set)) as server:
        remote = ShardSet.open(server.url, settings(cache=tmp_path))
        server.fault = lambda request: None if request.name in good else "stall"
        with TrainLoader(
            remote, settings(), seed=5, rank=0, world_size=1, global_batch=24, device=CPU
        ) as loader:
            got: list[Batch] = []
            consumer = Thread(target=lambda: got.extend(loader.batches(0)))
            consumer.start()
            while not server.stalled or len(got) < batches:
                time.sleep(0.01)
            began = time.monotonic()
            loader.close()
            consumer.join()
            assert time.monotonic() - began < 2
            assert loader.bad_samples == 0
            assert all(map(same, got, whole))
            assert len(got) == batches


def test_batches_that_are_let_go_of_end_their_downloads(
    shards: ShardSet, whole_set: Path, tmp_path: Path
) -> None:
    order = SampleOrder(shards.shard_sizes, seed=5, global_batch=24, shuffle_block=30)
    good = [f"shard-{number:06d}.tar" for number in next(order.upcoming(0, 0))]
    with closing(FileServer(whole_set)) as server:
        remote = ShardSet.open(server.url, settings(cache=tmp_path))
        server.fault = lambda request: None if request.name in good else "stall"
        with TrainLoader(
            remote, settings(), seed=5, rank=0, world_size=1, global_batch=24, device=CPU
        ) as loader:
            batches = loader.batches(0)
            next(batches)
            while not server.stalled:
                time.sleep(0.01)
            began = time.monotonic()
            batches.close()
            assert time.monotonic() - began < 2


def test_a_loader_of_a_url_starts_anywhere_again(shards: ShardSet, whole_set: Path, tmp_path: Path) -> None:
    with closing(FileServer(whole_set)) as server:
        remote = ShardSet.open(server.url, settings(cache=tmp_path))
        whole = take(shards, settings(), 5)
        with TrainLoader(
            remote, settings(), seed=5, rank=0, world_size=1, global_batch=24, device=CPU
        ) as loader:
            for start in (0, 3, 1):
                for got, expected in zip(loader.batches(start), whole[start : start + 2], strict=False):
                    assert same(got, expected)


def test_too_many_bad_samples_stop_the_run(whole_set: Path, tmp_path: Path) -> None:
    with (
        spoiled(whole_set, tmp_path / "set", list(range(40))) as rotten,
        TrainLoader(rotten, settings(), seed=5, rank=0, world_size=1, global_batch=90, device=CPU) as loader,
        pytest.raises(TooManyBadSamples, match="40 of 90 samples"),
    ):
        next(loader.batches(0))


def test_a_batch_without_a_good_sample_stops_the_run(whole_set: Path, tmp_path: Path) -> None:
    with (
        spoiled(whole_set, tmp_path / "set", list(range(90))) as rotten,
        TrainLoader(rotten, settings(), seed=5, rank=0, world_size=1, global_batch=8, device=CPU) as loader,
        pytest.raises(UserError, match=r"none of 8 samples[\s\S]*data verify"),
    ):
        next(loader.batches(0))
