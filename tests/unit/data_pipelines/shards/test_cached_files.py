import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from file_server import FileServer, Request

from data_pipelines.settings import DataSettings
from data_pipelines.shards import cached_files, remote
from data_pipelines.shards.cache import ReadCancelled
from data_pipelines.shards.cached_files import CachedFiles
from data_pipelines.shards.shard_set import BadSample, ShardSet


@pytest.fixture
def server(whole_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    server = FileServer(shutil.copytree(whole_set, tmp_path / "remote"))
    yield server
    server.close()


@pytest.fixture
def opened(server: FileServer, tmp_path: Path) -> Iterator[Callable[..., ShardSet]]:
    sets: list[ShardSet] = []

    def make(**changes: object) -> ShardSet:
        settings = DataSettings(**{"cache": tmp_path / "cache", **changes})
        sets.append(ShardSet.open(server.url, settings))
        return sets[-1]

    yield make
    for shards in sets:
        shards.files.stop()


def cached(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.glob("cache/*/*.tar")}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def name(shard: int) -> str:
    return f"shard-{shard:06d}.tar"


def sizes(server: FileServer) -> list[int]:
    return [path.stat().st_size for path in sorted(server.folder.glob("*.tar"))]


def cap(server: FileServer, shards: int) -> int:
    """Room for the index and the largest so many shards."""
    return (server.folder / "index.npy").stat().st_size + sum(sorted(sizes(server))[-shards:])


@pytest.mark.parametrize("room", [None, 1, 2])
def test_samples_are_those_of_the_local_folder(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, tmp_path: Path, room: int | None
) -> None:
    copy = opened() if room is None else opened(cache_bytes=cap(server, room))
    for sample in range(90):
        assert copy.read(sample) == shards.read(sample)
        assert copy.key(sample) == shards.key(sample)
    assert all(server.starts(name(shard)) == [0] for shard in range(4))
    assert len(cached(tmp_path)) == (room or 4)


def test_shards_come_in_chunks_and_go_on_after_a_cut(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_files, "CHUNK", 1000)
    server.fault = lambda request: "cut" if server.starts(name(0)) == [0, 1000, 2000, 3000] else None
    assert opened().read(0) == shards.read(0)
    assert server.starts(name(0)) == sorted([3000, *range(0, sizes(server)[0], 1000)])


def test_a_wrong_byte_in_the_cache_is_mended(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, tmp_path: Path
) -> None:
    copy = opened()
    copy.files.expect(iter([[1]]))
    wait_until(lambda: cached(tmp_path) == {name(1)})
    path = next(tmp_path.glob(f"cache/*/{name(1)}"))
    data = bytearray(path.read_bytes())
    for sample in (30, 31):
        data[int(copy.index["offset"][sample]) + 100] ^= 1
    path.write_bytes(data)
    assert copy.read(30) == shards.read(30)
    assert not cached(tmp_path)
    assert copy.read(31) == shards.read(31)
    assert server.starts(name(1)) == [0, int(copy.index["offset"][30]), 0]


def test_a_wrong_byte_at_the_source_is_a_bad_sample(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, tmp_path: Path
) -> None:
    path = server.folder / name(1)
    data = bytearray(path.read_bytes())
    data[int(shards.index["offset"][30]) + 100] ^= 1
    path.write_bytes(data)
    copy = opened()
    for _ in range(2):
        with pytest.raises(BadSample, match="CRC differs"):
            copy.read(30)
    assert copy.read(31) == shards.read(31)
    assert server.starts(name(1)).count(0) == 1, "the shard must not come again for each bad sample"


@pytest.mark.parametrize(("status", "reason"), [(404, "no such file"), (403, "HTTP status 403")])
def test_a_shard_that_is_not_to_be_had_gives_bad_samples(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, status: int, reason: str
) -> None:
    copy = opened()
    server.fault = lambda request: status if request.name == name(2) else None
    for sample in (50, 51):
        with pytest.raises(BadSample, match=reason):
            copy.read(sample)
    assert copy.key(50).startswith(f"{name(2)}@")
    assert server.starts(name(2)) == [0], "a shard that is away is not asked for by every sample"
    assert copy.read(0) == shards.read(0)


@pytest.mark.parametrize("change", [lambda data: data[:-600], lambda data: data + bytes(600)])
def test_a_shard_of_another_length_is_refused(
    server: FileServer, opened: Callable[..., ShardSet], change: Callable[[bytes], bytes]
) -> None:
    path = server.folder / name(0)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadSample, match=r"the file has .* bytes but the index was made for"):
        opened().read(0)


def test_without_room_images_come_one_by_one(
    server: FileServer,
    opened: Callable[..., ShardSet],
    shards: ShardSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy = opened(cache_bytes=min(sizes(server)))
    for sample in range(90):
        assert copy.read(sample) == shards.read(sample)
    assert len(cached(tmp_path)) <= 1
    assert caplog.text.count("Raise data.cache_bytes") == 1
    assert len(server.starts(name(0))) == 25


@pytest.mark.parametrize("small_disk", ["200k"], indirect=True)
def test_a_full_disk_does_not_stop_reads(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, small_disk: Path
) -> None:
    filler = small_disk / "of others"
    copy = opened(cache=small_disk / "cache")
    for turn in range(2):
        for sample in range(90):
            assert copy.read(sample) == shards.read(sample)
        filler.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - turn)))


def test_a_cache_that_fails_does_not_stop_reads(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, tmp_path: Path
) -> None:
    copy = opened()
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder any more")
    assert copy.read(0) == shards.read(0)


def test_what_is_expected_is_fetched_ahead_and_kept(
    server: FileServer, opened: Callable[..., ShardSet], tmp_path: Path
) -> None:
    copy = opened(prefetch_shards=1)
    copy.files.expect(iter([[2], [0], [1], [3]]))
    wait_until(lambda: cached(tmp_path) == {name(2), name(0)})
    copy.files.expect(iter([[0], [1], [3]]))
    wait_until(lambda: cached(tmp_path) == {name(0), name(1), name(2)})


def test_no_more_is_fetched_ahead_than_fits(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, tmp_path: Path
) -> None:
    copy = opened(cache_bytes=cap(server, 2))
    for first in range(3):
        copy.files.expect(iter([[first], [first + 1], [(first + 2) % 4]]))
        for sample in range(25 * first, 25 * first + 25):
            assert copy.read(sample) == shards.read(sample)
        both = {name(first), name(first + 1)}
        wait_until(lambda both=both: both == cached(tmp_path))
    time.sleep(0.05)
    assert all(server.starts(name(shard)) == [0] for shard in range(4))


def test_two_readers_with_room_for_one_both_get_on(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet
) -> None:
    ours = opened(cache_bytes=cap(server, 1))
    theirs = ours.copy()
    ours.files.expect(iter([[0]]))
    wait_until(lambda: bool(server.starts(name(0))))
    ours.read(0)
    theirs.files.expect(iter([[1]]))
    assert theirs.read(30) == shards.read(30)
    assert ours.read(1) == shards.read(1)
    assert server.starts(name(1)) == [int(shards.index["offset"][30])]
    theirs.files.stop()


def test_a_read_does_not_queue_behind_what_is_fetched_ahead(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_files, "_THREADS", 1)

    def stall_the_first(request: Request) -> str | None:
        return "stall" if request.name == name(0) else None

    server.fault = stall_the_first
    copy = opened()
    copy.files.expect(iter([[0, 1, 2, 3]]))
    wait_until(lambda: bool(server.starts(name(0))))
    assert copy.read(89) == shards.read(89)
    assert not server.starts(name(1))


def test_stop_ends_downloads_and_reads_at_once_and_start_allows_them_again(
    server: FileServer, opened: Callable[..., ShardSet], shards: ShardSet
) -> None:
    copy = opened()
    server.fault = lambda request: "stall"
    copy.files.expect(iter([[0, 1, 2]]))
    errors: list[ReadCancelled] = []

    def read() -> None:
        try:
            copy.read(89)
        except ReadCancelled as error:
            errors.append(error)

    reader = Thread(target=read)
    reader.start()
    wait_until(lambda: len(server.starts(name(3))) == 1 and len(server.requests) == 7)
    began = time.monotonic()
    copy.files.stop()
    reader.join(10)
    assert time.monotonic() - began < 2
    assert len(errors) == 1
    server.fault = lambda request: None
    with pytest.raises(ReadCancelled):
        copy.read(0)
    copy.files.start()
    assert copy.read(0) == shards.read(0)


def test_copies_share_the_cache_but_not_the_stop(opened: Callable[..., ShardSet], shards: ShardSet) -> None:
    first = opened()
    second = first.copy()
    first.files.stop()
    assert second.read(0) == shards.read(0)
    np.testing.assert_array_equal(first.index, second.index)
    assert isinstance(second.files, CachedFiles)


def test_retries_are_told(
    server: FileServer, opened: Callable[..., ShardSet], caplog: pytest.LogCaptureFixture
) -> None:
    copy = opened()
    server.fault = lambda request: 503 if len(server.starts(name(0))) < 2 else None
    with caplog.at_level(logging.WARNING):
        copy.read(0)
    assert f"{server.url}/{name(0)}: HTTP status 503; trying again" in caplog.text
