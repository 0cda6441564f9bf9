import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer

from data_pipelines.errors import UserError
from data_pipelines.settings import DataSettings
from data_pipelines.shards import remote
from data_pipelines.shards.index import write_index
from data_pipelines.shards.shard_set import BadSample, ShardSet


@pytest.fixture
def server(whole_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "_FIRST_WAIT_SECONDS", 0.001)
    server = FileServer(shutil.copytree(whole_set, tmp_path / "remote"))
    yield server
    server.close()


def open_set(server: FileServer, tmp_path: Path, **changes: object) -> ShardSet:
    return ShardSet.open(server.url, DataSettings(**{"cache": tmp_path / "cache", **changes}))


def refused(server: FileServer, tmp_path: Path, **changes: object) -> str:
    with pytest.raises(UserError) as error:
        open_set(server, tmp_path, **changes)
    return str(error.value)


def change_record(server: FileServer, **changes: object) -> None:
    path = server.folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_remote_set_is_the_local_one(server: FileServer, shards: ShardSet, tmp_path: Path) -> None:
    opened = open_set(server, tmp_path)
    np.testing.assert_array_equal(opened.index, shards.index)
    assert (opened.fingerprint, opened.classes) == (shards.fingerprint, shards.classes)
    assert opened.shard_sizes == shards.shard_sizes
    assert str(opened.folder) == server.url
    assert {request.name for request in server.requests} == {"dataset.json", "index.npy"}


def test_the_index_is_downloaded_once_for_each_content(server: FileServer, tmp_path: Path) -> None:
    first = open_set(server, tmp_path)
    server.requests.clear()
    assert open_set(server, tmp_path).fingerprint == first.fingerprint
    assert [request.name for request in server.requests] == ["dataset.json"]
    rows = np.load(server.folder / "index.npy")
    rows["label"][:] = 0
    shards = [(path.name, path.stat().st_size) for path in sorted(server.folder.glob("*.tar"))]
    write_index(server.folder, rows, classes=("all",), shards=shards, quarantined=[])
    second = open_set(server, tmp_path)
    assert second.fingerprint != first.fingerprint
    assert not second.index["label"].any()
    assert first.index["label"].any(), "what is open must not change"


def test_a_long_record_comes_in_parts(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipelines.shards.remote_set.CHUNK", 64)
    assert len(open_set(server, tmp_path)) == 90
    assert len(server.starts("dataset.json")) > 5


@pytest.mark.parametrize("name", ["dataset.json", "index.npy"])
def test_without_an_index_the_message_says_how_to_make_one(
    server: FileServer, tmp_path: Path, name: str
) -> None:
    (server.folder / name).unlink()
    message = refused(server, tmp_path)
    assert f"{server.url}/{name}" in message
    assert "all4one data index FOLDER" in message
    assert "upload" in message


def test_forbidden(server: FileServer, tmp_path: Path) -> None:
    server.fault = lambda request: 403
    message = refused(server, tmp_path)
    assert f"{server.url}/dataset.json" in message
    assert "access is refused" in message
    assert "credentials" in message


def test_down(server: FileServer, tmp_path: Path) -> None:
    server.fault = lambda request: 503
    assert "cannot be read (HTTP status 503)" in refused(server, tmp_path)
    assert 1 < len(server.requests) < 10, "whoever waits for a start must not wait long"


def _cut_the_index(server: FileServer) -> None:
    path = server.folder / "index.npy"
    path.write_bytes(path.read_bytes()[:-40])


def _change_the_index(server: FileServer) -> None:
    rows = np.load(server.folder / "index.npy")
    rows["label"][3] += 1
    np.save(server.folder / "index.npy", rows)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda server: (server.folder / "dataset.json").write_bytes(b"rubbish"), "not an index of all4one"),
        (
            lambda server: (server.folder / "dataset.json").write_bytes(b"\n<html><body>Sign in</body>"),
            "not an index of all4one, but a web page (HTML)",
        ),
        (
            lambda server: (server.folder / "dataset.json").write_bytes(b'{"version": 2, "finger'),
            "not an index of all4one: it ends in the middle, after 22 bytes",
        ),
        (
            lambda server: (server.folder / "index.npy").write_bytes(b"<!DOCTYPE html>"),
            "not an index: the server sent a web page (HTML)",
        ),
        (
            lambda server: (server.folder / "index.npy").write_bytes(b"rubbish and more"),
            "not an index: the server sent b'rubbish an'",
        ),
        (lambda server: change_record(server, version=99), "version 99"),
        (lambda server: change_record(server, fingerprint="../../../x"), "not an index of all4one"),
        (
            lambda server: change_record(server, shards=[{"name": "../x.tar", "size": 1, "samples": 90}]),
            "not an index of all4one",
        ),
        (_cut_the_index, "the index was made for"),
        (_change_the_index, "different datasets"),
        (lambda server: np.save(server.folder / "index.npy", np.zeros(990)), "the index was made for"),
    ],
)
def test_a_broken_index_is_told_and_not_kept(
    server: FileServer, tmp_path: Path, spoil: Callable[[FileServer], object], message: str
) -> None:
    spoil(server)
    assert message in refused(server, tmp_path)
    assert message in refused(server, tmp_path), "a second look must not find it whole"
    assert not list((tmp_path / "cache").glob("*/index.npy"))


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert "set data.cache to another folder" in refused(server, tmp_path)


def test_a_cache_too_small_for_the_index(server: FileServer, tmp_path: Path) -> None:
    assert "does not fit under data.cache_bytes" in refused(server, tmp_path, cache_bytes=1000)


@pytest.mark.parametrize("small_disk", ["4k"], indirect=True)
def test_a_disk_too_small_for_the_index(server: FileServer, small_disk: Path) -> None:
    (small_disk / "of others").write_bytes(bytes(4096))
    assert "the index cannot be stored in the cache" in refused(server, small_disk)


def test_a_server_that_answers_with_half_of_a_range(server: FileServer, tmp_path: Path) -> None:
    server.fault = lambda request: "half"
    with pytest.raises(UserError, match=r"index\.npy: the file is not an index: the server sent b'"):
        open_set(server, tmp_path)  # a header of ten bytes is read at once
    server.fault = lambda request: "half" if (request.name, request.start) != ("index.npy", 0) else None
    shards = open_set(server, tmp_path)
    assert [len(shards.read(sample)) > 0 for sample in range(90)] == [True] * 90


def test_a_server_without_ranges(server: FileServer, tmp_path: Path) -> None:
    server.fault = lambda request: "whole"
    shards = open_set(server, tmp_path)
    assert shards.read(3)


def test_a_signed_folder(server: FileServer, tmp_path: Path) -> None:
    shards = ShardSet.open(f"{server.url}?sig=a%2Bb", DataSettings(cache=tmp_path / "cache"))
    assert shards.read(3)
    assert set(server.queries) == {"sig=a%2Bb"}


def test_a_page_in_place_of_a_shard_is_named(server: FileServer, tmp_path: Path) -> None:
    shards = open_set(server, tmp_path)
    server.fault = lambda request: "html"
    with pytest.raises(BadSample, match="the server sent a web page"):
        shards.read(3)
