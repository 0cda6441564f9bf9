"""Batches of sets behind real servers are those of the local folder, whatever happens on the way."""

import hashlib
import random
import shutil
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from file_server import FileServer, Request
from rank_processes import forks

from data_pipelines.build.builder import BuildOptions, build
from data_pipelines.errors import UserError
from data_pipelines.loading.loaders import EvalLoader, TrainLoader
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards import remote
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.sources.image_sources import digits
from trainer.runs.components import refuse_other_set

CPU = torch.device("cpu")
SHARD_SAMPLES = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "set"
    build(digits()["train"], folder, BuildOptions(shard_samples=SHARD_SAMPLES))
    return folder


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote, "_TIMEOUT_SECONDS", 0.5)
    server = FileServer(folder)
    yield server
    server.close()


@pytest.fixture
def s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import fsspec
    from fsspec.config import conf
    from moto.server import ThreadedMotoServer

    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setitem(conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    bucket = fsspec.filesystem("s3")
    bucket.makedirs("bucket", exist_ok=True)
    bucket.put(str(folder), "bucket/digits/train", recursive=True)
    yield "s3://bucket/digits/train"
    bucket.clear_instance_cache()
    server.stop()


def half(folder: Path) -> int:
    """Room for the index and half of the shards."""
    return (
        sum(path.stat().st_size for path in folder.glob("*.tar")) // 2 + (folder / "index.npy").stat().st_size
    )


def settings(cache: Path, room: int = 1 << 40) -> DataSettings:
    views = (ViewSettings(size=16), ViewSettings(size=16, solarize_prob=0.2))
    return DataSettings(
        views=views,
        decode_threads=2,
        executor="opencv",
        eval_resize=16,
        shuffle_block=250,
        cache=cache,
        cache_bytes=room,
        prefetch_shards=2,
    )


def assert_same_batches(folder: Path, url: str, config: DataSettings) -> None:
    """Two epochs and an evaluation of both are the same, bit for bit."""
    local, opened = ShardSet.open(folder), ShardSet.open(url, config)
    assert opened.fingerprint == local.fingerprint
    given = {"seed": 3, "rank": 0, "world_size": 1, "global_batch": 96, "device": CPU}
    with TrainLoader(local, config, **given) as ours, TrainLoader(opened, config, **given) as theirs:
        steps = 2 * ours.steps_per_epoch
        count = 0
        for one, other in islice(zip(ours.batches(0), theirs.batches(0), strict=True), steps):
            assert torch.equal(one.ids, other.ids)
            assert all(map(torch.equal, one.views, other.views))
            count += 1
        assert count == steps
        assert theirs.bad_samples == 0
    share = {"rank": 1, "world_size": 2, "batch": 64, "device": CPU}
    with EvalLoader(local, config, **share) as ours, EvalLoader(opened, config, **share) as theirs:
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.images, other.images)
        assert theirs.bad_samples == 0


def used(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("*/*"))


def test_batches_over_http(folder: Path, server: FileServer, tmp_path: Path) -> None:
    assert_same_batches(folder, server.url, settings(tmp_path, half(folder)))
    assert used(tmp_path) <= half(folder)
    shards = {request.name for request in server.requests} - {"index.npy", "dataset.json"}
    assert len(server.requests) < 5 * len(shards), "shards must come whole, not image by image"


def test_batches_over_http_that_fails_often(
    folder: Path, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipelines.shards.cached_files.CHUNK", 20_000)
    draw = random.Random(0)

    def fault(request: Request) -> int | str | None:
        return draw.choices([None, 503, 429, "cut", "stall", "whole"], [16, 1, 1, 1, 0.1, 1])[0]

    config = settings(tmp_path, half(folder))
    ShardSet.open(server.url, config)
    server.fault = fault
    assert_same_batches(folder, server.url, config)
    assert server.stalled > 0


def test_batches_over_s3(folder: Path, s3: str, tmp_path: Path) -> None:
    assert_same_batches(folder, s3, settings(tmp_path, half(folder)))
    assert used(tmp_path) <= half(folder)


def test_s3_without_the_set_or_without_keys(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    with pytest.raises(
        UserError, match=r"s3://bucket/none/dataset.json: there is no such file[\s\S]*data index"
    ):
        ShardSet.open("s3://bucket/none", settings(tmp_path))
    with pytest.raises(UserError, match=r"s3://away/x/dataset\.json: there is no such file"):
        ShardSet.open("s3://away/x", settings(tmp_path))
    fsspec.filesystem("s3").clear_instance_cache()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"access is refused \([\s\S]*credentials"):
        ShardSet.open(s3, settings(tmp_path))


class Rank:
    """One of two ranks, in a process of its own that reads two epochs.

    Args:
        url: the set.
        number: number of the rank.
        config: settings with the cache.
        out: file for a line of each batch.
    """

    def __init__(self, url: str, number: int, config: DataSettings, out: Path) -> None:
        self.out = out
        self.process = forks().Process(target=write_batches, args=(url, number, config, out))
        self.process.start()

    def batches(self) -> str:
        """What `write_batches` has written at the end."""
        self.process.join(120)
        assert self.process.exitcode == 0
        return self.out.read_text()


def write_batches(url: str, number: int, config: DataSettings, out: Path) -> None:
    """Write the hash of each batch of two epochs, and at the end the number of bad samples."""
    given = {"seed": 3, "rank": number, "world_size": 2, "global_batch": 96, "device": CPU}
    with TrainLoader(ShardSet.open(url, config), config, **given) as loader, out.open("w") as file:
        for batch in islice(loader.batches(0), 2 * loader.steps_per_epoch):
            views = b"".join(view.numpy().tobytes() for view in batch.views)
            print(hashlib.sha256(views).hexdigest(), file=file, flush=True)
        print(f"bad samples: {loader.bad_samples}", file=file)


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What both ranks write about the local folder."""
    outs = [tmp_path_factory.mktemp("local") / str(number) for number in (0, 1)]
    for number, out in enumerate(outs):
        write_batches(str(folder), number, settings(out.parent), out)
    return [out.read_text() for out in outs]


def both_ranks(url: str, config: DataSettings, folder: Path) -> list[str]:
    """What two ranks that run at the same time write."""
    ranks = [Rank(url, number, config, folder / f"batches_{number}") for number in (0, 1)]
    return [rank.batches() for rank in ranks]


def test_two_processes_share_a_cache(
    folder: Path, server: FileServer, local: list[str], tmp_path: Path
) -> None:
    server.fault = lambda request: time.sleep(0.02)
    assert both_ranks(server.url, settings(tmp_path / "cache"), tmp_path) == local
    names = [path.name for path in folder.glob("*.tar")]
    assert {name: server.starts(name) for name in names} == {name: [0] for name in names}


def test_two_processes_share_a_cache_that_is_too_small(
    folder: Path, server: FileServer, local: list[str], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert both_ranks(server.url, settings(cache, half(folder) // 2), tmp_path) == local
    assert used(cache) <= half(folder) // 2


def test_a_killed_process_leaves_a_cache_that_works(
    server: FileServer, local: list[str], tmp_path: Path
) -> None:
    config = settings(tmp_path / "cache")
    server.fault = lambda request: time.sleep(0.02)
    killed = Rank(server.url, 0, config, tmp_path / "killed")
    while not (killed.out.exists() and killed.out.read_text()):
        assert killed.process.is_alive()
        time.sleep(0.001)
    killed.process.kill()
    killed.process.join()
    assert Rank(server.url, 0, config, tmp_path / "again").batches() == local[0]


def test_a_set_that_was_replaced_is_not_gone_on_with(
    folder: Path, server: FileServer, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    before = ShardSet.open(server.url, config)
    state = {"data": before.fingerprint}
    refuse_other_set(state, ShardSet.open(server.url, config))
    server.folder = tmp_path / "other"
    build(digits()["validation"], server.folder)
    after = ShardSet.open(server.url, config)
    with pytest.raises(UserError, match=f"{server.url}: the training set is not the one"):
        refuse_other_set(state, after)
    assert after.read(0) == ShardSet.open(server.folder).read(0)
    shutil.rmtree(server.folder)
