import errno
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer

import pytest
from file_server import FileServer
from fsspec.registry import known_implementations

from data_pipelines.errors import UserError
from data_pipelines.shards import remote as module
from data_pipelines.shards.cache import ReadCancelled
from data_pipelines.shards.remote import Remote, RemoteError
from data_pipelines.urls import Url

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "file").write_bytes(CONTENT)
    server = FileServer(tmp_path)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 0.001)


def open_remote(server: FileServer, stop: Event | None = None) -> Remote:
    return Remote(Url(server.url), stop or Event())


def test_ranges(server: FileServer) -> None:
    remote = open_remote(server)
    assert remote.read("file", 0, 10) == CONTENT[:10]
    assert remote.read("file", 1000, 3000) == CONTENT[1000:3000]
    assert remote.read("file", 10_000, 99_999) == CONTENT[10_000:]
    assert remote.read("file", len(CONTENT), 99_999) == b""


def test_a_server_without_ranges_sends_the_rest(server: FileServer) -> None:
    server.fault = lambda request: "whole"
    assert open_remote(server).read("file", 1000, 1010) == CONTENT[1000:]
    assert open_remote(server).read("file", 0, 99_999) == CONTENT


@pytest.mark.parametrize("fault", [503, 500, 429, "cut", "stall"])
def test_what_may_pass_is_tried_again(
    server: FileServer, fault: int | str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.2)
    server.fault = lambda request: fault if len(server.requests) < 3 else None
    assert open_remote(server).read("file", 256, 512) == CONTENT[256:512]
    assert len(server.requests) == 3
    assert f"{server.url}/file: " in caplog.text
    assert "trying again in" in caplog.text


def test_tries_come_to_an_end(server: FileServer) -> None:
    server.fault = lambda request: 503
    with pytest.raises(RemoteError, match="HTTP status 503") as error:
        open_remote(server).read("file", 0, 10, tries=4)
    assert error.value.errno == errno.EIO
    assert error.value.filename == f"{server.url}/file"
    assert len(server.requests) == 4


@pytest.mark.parametrize(("status", "code"), [(404, errno.ENOENT), (403, errno.EACCES), (400, errno.EIO)])
def test_what_will_not_pass_is_not_tried_again(server: FileServer, status: int, code: int) -> None:
    server.fault = lambda request: status
    with pytest.raises(RemoteError) as error:
        open_remote(server).read("file", 0, 10)
    assert error.value.errno == code
    assert len(server.requests) == 1


def test_a_server_that_is_down(server: FileServer) -> None:
    server.close()
    with pytest.raises(RemoteError, match="connect"):
        open_remote(server).read("file", 0, 10, tries=3)


def test_waits_grow_up_to_a_limit(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Recorded(Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            return False

    monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 0.5)
    server.fault = lambda request: 503
    with pytest.raises(RemoteError):
        open_remote(server, Recorded()).read("file", 0, 10)
    longest = [min(0.5 * 2**n, 60) for n in range(module.TRIES - 1)]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len({wait / most for wait, most in zip(waits, longest, strict=True)}) > 10, "there must be jitter"


@pytest.mark.parametrize("fault", ["stall", 503])
def test_a_read_can_be_stopped(server: FileServer, fault: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_SECONDS", 30)
    server.fault = lambda request: fault
    stop = Event()
    Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(ReadCancelled):
        open_remote(server, stop).read("file", 0, 10)
    assert time.monotonic() - began < 2


def test_a_forked_process_reads_as_well(server: FileServer) -> None:
    remote = open_remote(server)
    assert remote.read("file", 0, 10) == CONTENT[:10]
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: sender.send_bytes(remote.read("file", 0, 10)), daemon=True
    )
    process.start()
    assert receiver.poll(20)
    assert receiver.recv_bytes() == CONTENT[:10]
    process.join()


def test_file_systems_that_are_not_asynchronous(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    remote = Remote(Url(f"file://{tmp_path}"), Event())
    assert remote.read("file", 1000, 3000) == CONTENT[1000:3000]
    assert remote.read("file", 10_000, 99_999) == CONTENT[10_000:]
    assert remote.read("file", len(CONTENT), 99_999) == b""
    with pytest.raises(RemoteError, match="no such file"):
        remote.read("other", 0, 10)


def test_a_protocol_that_nobody_knows() -> None:
    with pytest.raises(UserError, match=r"nonsense://a/b: cannot be opened.*nonsense[\s\S]*such as s3://"):
        Remote(Url("nonsense://a/b"), Event())


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import known_implementations

    monkeypatch.setitem(
        known_implementations,
        "away",
        {"class": "away_package.System", "err": "Install away_package to use away"},
    )
    with pytest.raises(
        UserError, match=r"away://a: [\s\S]*Install away_package[\s\S]*pip install away_package"
    ):
        Remote(Url("away://a"), Event())


def test_a_signature_stays_at_the_end_and_out_of_messages(
    server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Remote(Url(f"{server.url}?X-Amz-Signature=a%2Fb%7E&x=1"), Event())
    server.fault = lambda request: 503 if len(server.requests) < 2 else None
    assert remote.read("file", 0, 10) == CONTENT[:10]
    assert server.queries == ["X-Amz-Signature=a%2Fb%7E&x=1"] * 2
    server.fault = lambda request: 403
    with pytest.raises(RemoteError) as error:
        remote.read("file", 0, 10)
    assert error.value.filename == f"{server.url}/file"
    assert "Signature" not in caplog.text + str(error.value)


def test_a_file_system_that_never_answers_ends_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = Event()
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: going_on.wait(60))
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(UserError, match=r"hang://a: the file system does not answer: no answer for 0 s"):
        Remote(Url("hang://a"), Event())
    going_on.set()


def test_tries_end_when_their_time_is_over(server: FileServer) -> None:
    server.fault = lambda request: 503
    with pytest.raises(RemoteError, match="HTTP status 503"):
        open_remote(server).read("file", 0, 10, seconds=0)
    assert len(server.requests) == 1


def test_a_slow_import_is_not_the_network_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_files.py").write_text(
        "import time; time.sleep(0.5)\nfrom fsspec.implementations.memory import MemoryFileSystem as Slow\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(known_implementations, "slow", {"class": "slow_files.Slow", "err": "gone"})
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.1)
    Remote(Url("slow://a"), Event())


NOISY = """
import logging
from fsspec import AbstractFileSystem
class Noisy(AbstractFileSystem):
    protocol = "noisy"
    def cat_file(self, path, **_):
        try:
            raise OSError("the host is unknown")
        except OSError:
            logging.getLogger("noisy_package").exception("out of retries")
            raise
"""
READS = """
from threading import Event
from fsspec.registry import register_implementation
from data_pipelines.shards.remote import Remote
from data_pipelines.urls import Url
register_implementation("noisy", "noisy_package.core.Noisy")
try:
    Remote(Url("noisy://bucket"), Event()).read("a", 0, 9, tries=1)
except OSError as error:
    print(error.strerror)
"""


def test_tracebacks_that_a_package_logs_are_not_printed(tmp_path: Path) -> None:
    package = tmp_path / "noisy_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "core.py").write_text(NOISY)
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", READS], capture_output=True, text=True, env=os.environ | paths, check=True
    )
    assert (done.stdout, done.stderr) == ("the host is unknown\n", "")
