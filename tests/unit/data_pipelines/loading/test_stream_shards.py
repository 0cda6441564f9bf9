"""Shards of a stream that fail: each is named once, with what came."""

import gzip
import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from file_server import FileServer

from data_pipelines.errors import UserError
from data_pipelines.loading import stream_files
from data_pipelines.loading.stream_loader import StreamLoader, StreamSet
from data_pipelines.loading.stream_shards import FailedShards, samples_of
from data_pipelines.settings import DataSettings, ViewSettings


@pytest.fixture
def server(whole_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    quick = tuple("0" if word == "5" else word for word in stream_files._CURL)
    monkeypatch.setattr(stream_files, "_CURL", quick)
    folder = tmp_path / "served"
    folder.mkdir()
    for path in whole_set.glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    server = FileServer(folder)
    yield server
    server.close()


def read(url: str, failures: FailedShards | None = None) -> int:
    """Number of samples of a shard."""
    return len(list(samples_of([{"url": url}], failures or FailedShards([url] * 9))))


def reason(url: str) -> str:
    failures = FailedShards([url] * 9)
    read(url, failures)
    (found,) = failures.take().values()
    return found


def pack(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"1"))
    return path


def test_signed_urls(server: FileServer) -> None:
    assert read(f"{server.url}/shard-000000.tar?X-Amz-Signature=a%2Fb&c=[1]&d=a/b") == 25
    assert server.queries == ["X-Amz-Signature=a%2Fb&c=[1]&d=a/b"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (403, "The requested URL returned error: 403"),
        ("html", "the server sent a web page (HTML) in place of the shard"),
        ("cut", "bytes remaining"),
    ],
)
def test_what_came_in_place_of_a_shard(server: FileServer, fault: int | str, expected: str) -> None:
    server.fault = lambda request: fault
    found = reason(f"{server.url}/shard-000000.tar")
    assert expected in found
    assert found.endswith("The shard is skipped")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "there is no such file or program"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: pack(path, []), "it contains no samples"),
        (lambda path: path.write_bytes(b"no tar" * 1000), "invalid header, after "),
        (lambda path: pack(path, ["1.jpg", "2.jpg", "1.cls", "2.cls"]), "members of '1' lie apart"),
        (lambda path: pack(path, ["1.jpg", "1.jpg"]), "1.jpg: duplicate file name"),
    ],
)
def test_shards_that_fail(tmp_path: Path, make: Callable[[Path], object], expected: str) -> None:
    make(tmp_path / "a.tar")
    assert expected in reason(str(tmp_path / "a.tar"))


def test_concatenated_tars_are_named_and_the_first_is_read(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", ["1.jpg"])
    path.write_bytes(path.read_bytes() * 2)
    failures = FailedShards([str(path)])
    assert read(str(path), failures) == 1
    assert " bytes behind the end of the tar are not read" in failures.take()["a.tar"]


@pytest.mark.parametrize("kept", [1024, 1500, 2048, 2050, 2500])
def test_a_tar_that_was_cut_anywhere_is_named(server: FileServer, kept: int) -> None:
    path = pack(server.folder / "a.tar", ["1.jpg", "2.jpg", "3.jpg"])
    path.write_bytes(path.read_bytes()[:kept])
    found = reason(f"{server.url}/a.tar")
    assert f"after {kept:,} bytes" in found


def test_half_of_a_shard_is_named(server: FileServer) -> None:
    server.fault = lambda request: "half"
    half = (server.folder / "shard-000000.tar").stat().st_size // 2
    assert f"after {half:,} bytes" in reason(f"{server.url}/shard-000000.tar")


def test_compressed_shards_are_read(server: FileServer) -> None:
    data = (server.folder / "shard-000000.tar").read_bytes()
    (server.folder / "a.tar.gz").write_bytes(gzip.compress(data))
    failures = FailedShards(["x"])
    assert read(f"{server.url}/a.tar.gz", failures) == 25
    assert failures.take() == {}


def test_a_protocol_without_its_program_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "there is no such file or program: gsutil" in reason("gs://bucket/a.tar")


def loader(config: DataSettings, quarantine: Path | None = None) -> StreamLoader:
    return StreamLoader(
        StreamSet(config),
        config,
        seed=5,
        rank=0,
        world_size=1,
        global_batch=24,
        device=torch.device("cpu"),
        quarantine=quarantine,
    )


def settings(train: str, classes: int = 3) -> DataSettings:
    return DataSettings(
        train=train,
        reader="stream",
        stream={"samples": 90, "classes": classes, "buffer": 30},
        views=(ViewSettings(size=16), ViewSettings(size=16)),
        executor="opencv",
        decode_threads=1,
    )


def test_a_shard_is_named_once_on_the_terminal_and_in_the_quarantine(
    server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (server.folder / "shard-000001.tar").unlink()
    url = f"{server.url}/shard-{{000000..000003}}.tar?Signature=secret"
    caplog.set_level(logging.WARNING)
    with loader(settings(url), tmp_path / "bad.jsonl") as batches:
        assert len(list(islice(batches.batches(0), 12))) == 12
        assert batches.bad_samples == 0
    assert caplog.text.count("shard-000001.tar: The requested URL returned error: 404") == 1
    (line,) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line)["shard"] == "shard-000001.tar"
    assert "secret" not in caplog.text + line


def test_another_signature_is_the_same_set() -> None:
    one, other, third = (
        StreamSet(settings(f"https://h/a.tar?{query}")).fingerprint
        for query in ("Signature=1", "Signature=2", "version=1")
    )
    assert one == other != third


def test_labels_that_the_settings_promise_must_exist(tmp_path: Path, whole_set: Path) -> None:
    with tarfile.open(whole_set / "shard-000000.tar") as tar, tarfile.open(tmp_path / "a.tar", "w") as out:
        for member in tar:
            if not member.name.endswith("cls"):
                out.addfile(member, tar.extractfile(member))
    with (
        loader(settings(str(tmp_path / "a.tar"))) as batches,
        pytest.raises(
            UserError, match=r"none of the first 100 samples has a label.*Looked for \.cls.*Found \."
        ),
    ):
        list(islice(batches.batches(0), 9))
    with loader(settings(str(tmp_path / "a.tar"), classes=0)) as batches:
        assert len(list(islice(batches.batches(0), 9))) == 9
