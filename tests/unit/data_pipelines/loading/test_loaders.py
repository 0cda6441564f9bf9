import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import numpy as np
import pytest
import torch
from file_server import FileServer

from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import EvalLoader, TrainLoader
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.loading.quarantine import TooManyBadSamples
from data_pipelines.loading.sample_order import SampleOrder
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.local_files import LocalFiles
from data_pipelines.shards.shard_set import ShardSet

CPU = torch.device("cpu")
VIEWS = (ViewSettings(size=16, blur_prob=0.5), ViewSettings(size=24, solarize_prob=0.2))
executors = pytest.mark.parametrize("executor", ["opencv", "dali"])


def settings(executor: str = "opencv", **changes: Any) -> DataSettings:
    given = {"executor": executor, "views": VIEWS, "threads": 2, "eval_resize": 18, "shuffle_block": 30}
    return DataSettings(**(given | changes))


def take(shards: ShardSet, config: DataSettings, count: int, start: int = 0, **changes: Any) -> list[Batch]:
    given = {"seed": 5, "rank": 0, "world_size": 1, "global_batch": 24, "device": CPU}
    with TrainLoader(shards, config, **(given | changes)) as loader:
        return list(islice(loader.batches(start), count))


def same(one: Batch, other: Batch) -> bool:
    views = all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))
    return views and torch.equal(one.labels, other.labels) and torch.equal(one.ids, other.ids)


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


@contextmanager
def spoiled(whole_set: Path, folder: Path, samples: list[int]) -> Iterator[ShardSet]:
    """A copy of the set in which some samples rotted after it was indexed."""
    shutil.copytree(whole_set, folder)
    shards = ShardSet.open(folder)
    for sample in samples:
        path = folder / f"shard-{shards.index['shard'][sample]:06d}.tar"
        data = bytearray(path.read_bytes())
        data[int(shards.index["offset"][sample]) + 60] ^= 255
        path.write_bytes(data)
    yield shards


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


@executors
@pytest.mark.parametrize(("world", "batch"), [(1, 90), (1, 16), (3, 7), (4, 100)])
def test_evaluation_sees_each_sample_once_in_order(
    shards: ShardSet, executor: str, world: int, batch: int
) -> None:
    seen: dict[int, torch.Tensor] = {}
    for rank in range(world):
        with EvalLoader(
            shards, settings(executor), rank=rank, world_size=world, batch=batch, device=CPU
        ) as loader:
            batches = list(loader)
            assert len(batches) == len(loader)
        ids = torch.cat([b.ids for b in batches])
        assert ids.tolist() == list(range(rank, 90, world))
        np.testing.assert_array_equal(
            torch.cat([b.labels for b in batches]), shards.index["label"][ids.numpy()]
        )
        seen |= dict(zip(ids.tolist(), torch.cat([b.images for b in batches]), strict=True))
    with EvalLoader(shards, settings(executor), rank=0, world_size=1, batch=32, device=CPU) as loader:
        for evaluated in loader:
            for sample, image in zip(evaluated.ids.tolist(), evaluated.images, strict=True):
                assert torch.equal(image, seen[sample])


def test_evaluation_is_the_center_of_the_image(shards: ShardSet) -> None:
    import cv2

    from data_pipelines.imaging.images import decode_rgb

    with EvalLoader(shards, settings(), rank=0, world_size=1, batch=90, device=CPU) as loader:
        batch = next(iter(loader))
    for sample in (0, 44):
        pixels = decode_rgb(shards.read(sample))
        height, width, _ = pixels.shape
        scale = 18 / min(height, width)
        whole = cv2.resize(
            pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
        )
        y, x = (whole.shape[0] - 16) // 2, (whole.shape[1] - 16) // 2
        mean, std = (torch.tensor(v)[:, None, None] for v in (settings().mean, settings().std))
        got = ((batch.images[sample] * std + mean) * 255).permute(1, 2, 0).numpy()
        assert np.abs(got - whole[y : y + 16, x : x + 16]).mean() < 12


def test_evaluation_leaves_bad_samples_out(whole_set: Path, tmp_path: Path) -> None:
    with (
        spoiled(whole_set, tmp_path / "set", [4, *range(10, 20)]) as rotten,
        EvalLoader(rotten, settings(), rank=0, world_size=1, batch=10, device=CPU) as loader,
    ):
        ids = [sample for batch in loader for sample in batch.ids.tolist()]
        assert ids == [i for i in range(90) if i != 4 and not 10 <= i < 20]
        assert loader.bad_samples == 11
