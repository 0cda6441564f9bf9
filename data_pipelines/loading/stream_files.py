"""Opens the shards of a stream, each as a file that is read once from its start.

HTTP is read by curl, which gives up on servers that do not answer. S3, Hugging Face and Google files are read through
fsspec. All other URLs are opened by webdataset.
"""

import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Event
from typing import Any, Protocol

from data_pipelines.shards.remote import CHUNK, Remote, RemoteError, is_web_page
from data_pipelines.urls import Url

_CURL = (
    *("curl", "--silent", "--show-error", "--fail", "--location", "--globoff"),
    *("--connect-timeout", "30", "--retry", "5", "--retry-delay", "2", "--retry-max-time", "120"),
    *("--speed-limit", "1", "--speed-time", "60"),
)
_REMOTE_TRIES = 5
_REMOTE_SECONDS = 120.0  # for all tries of one read
_BLOCK = 1 << 16


class ShardFailed(Exception):
    """A shard cannot be read. The message is the reason."""


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class CountedFile:
    """A file that counts its bytes, and recognizes web pages and tars without an end."""

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self.received = 0
        """Bytes read so far."""
        self._head = self._tail = b""

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes.

        Raises:
            ShardFailed: the file is a web page.
        """
        data = self._file.read(size)
        if self.received == 0 and is_web_page(data):
            raise ShardFailed("the server sent a web page (HTML) in place of the shard")
        self.received += len(data)
        if len(self._head) < tarfile.BLOCKSIZE:
            self._head += data[: tarfile.BLOCKSIZE - len(self._head)]
        self._tail = (self._tail + data)[-tarfile.BLOCKSIZE :]
        return data

    def has_end(self) -> bool:
        """Return whether the bytes so far end like a tar, with a block of zeros. Compressed tars always have an end."""
        return self._head[257:262] != b"ustar" or not self._tail.strip(tarfile.NUL)

    def rest(self) -> int:
        """Read to the end. Return the number of bytes if any is not 0."""
        count, empty = 0, True
        while data := self.read(_BLOCK):
            count += len(data)
            empty = empty and not data.strip(tarfile.NUL)
        return 0 if empty else count


@contextmanager
def open_stream(url: str) -> Iterator[CountedFile]:
    """Open a shard.

    Raises:
        ShardFailed: it cannot be opened, or its transfer failed.
        Exception: an exception of webdataset or of the file.
    """
    protocol = url.partition("://")[0] if "://" in url else ""
    if protocol in ("http", "https"):
        with _curl(url) as file:
            yield file
    elif protocol in ("s3", "hf") or (protocol == "gs" and find_spec("gcsfs") is not None):
        yield CountedFile(_RemoteFile(url))
    else:
        import webdataset

        with webdataset.gopen(url) as stream:
            yield CountedFile(stream)


@contextmanager
def _curl(url: str) -> Iterator[CountedFile]:
    process = subprocess.Popen(
        [*_CURL, url], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    file = CountedFile(process.stdout)
    try:
        try:
            yield file
        except Exception as error:
            # A transfer that broke off looks like a broken tar.
            if isinstance(error, ShardFailed) or process.stdout.read(1):
                raise
            if process.wait() == 0:
                raise
            raise ShardFailed(_curl_reason(process.stderr.read())) from error
        if not process.stdout.read(1) and process.wait() != 0:
            raise ShardFailed(_curl_reason(process.stderr.read()))
    finally:
        process.kill()
        process.communicate()


def _curl_reason(message: bytes) -> str:
    lines = message.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].partition(") ")[2] or lines[-1] if lines else "the transfer failed"


class _RemoteFile:
    """A file read through fsspec from its start to its end."""

    def __init__(self, url: str) -> None:
        folder, _, self._name = url.partition("?")[0].rpartition("/")
        query = url.partition("?")[2]
        self._remote = Remote(Url(f"{folder}?{query}" if query else folder), Event())
        self._data, self._position, self._ended = b"", 0, False

    def read(self, size: int = -1) -> bytes:
        while not self._ended and (size < 0 or len(self._data) < size):
            try:
                more = self._remote.read(
                    self._name,
                    self._position,
                    self._position + CHUNK,
                    tries=_REMOTE_TRIES,
                    seconds=_REMOTE_SECONDS,
                )
            except RemoteError as error:
                raise ShardFailed(str(error.strerror)) from error
            self._ended = not more
            self._data, self._position = self._data + more, self._position + len(more)
        end = len(self._data) if size < 0 else size
        data, self._data = self._data[:end], self._data[end:]
        return data


def reason_of(error: BaseException, file: CountedFile | None) -> str:
    """Return why a shard failed, with the bytes that came if it broke off."""
    message: Any = error.args[0] if error.args else ""
    text = " ".join(str(message).partition(" @ <")[0].split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        text = f"there is no such file or program: {error.filename}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    if isinstance(error, ShardFailed) or file is None or file.received == 0:
        return text
    return f"{text}, after {file.received:,} bytes"
