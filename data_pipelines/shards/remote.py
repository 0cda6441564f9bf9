"""Reads from a remote folder through fsspec, with retries."""

import asyncio
import errno
import logging
import math
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, suppress
from threading import Event, Lock, Thread
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.shards.cache import ReadCancelled
from data_pipelines.urls import Url, shown

CHUNK = 8 << 20
"""Maximum number of bytes in one request."""
TRIES = 15
"""Attempts of one request. With the waits between them they last up to eight minutes."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 60.0
_TIMEOUT_SECONDS = 60.0  # of one attempt
_POLL_SECONDS = 0.1
_MAY_PASS = (408, 425, 429)  # HTTP: timeout, too early, too many requests; all codes from 500 on may pass too
_FINAL = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    NotImplementedError,
    TypeError,
    ValueError,
)
_log = logging.getLogger(__name__)


class _Failing:
    """The number of reads that have failed and are tried again. Threads may count together."""

    def __init__(self) -> None:
        self.number = 0
        self._lock = Lock()

    def add(self, change: int) -> None:
        with self._lock:
            self.number += change


_failing = _Failing()


def num_retried_reads() -> int:
    """Return how many reads of this process have failed and are tried again now."""
    return _failing.number


class RemoteError(OSError):
    """A read failed, and trying again did not help or will not help. `strerror` gives the reason.

    `errno` is ENOENT if the file does not exist, EACCES if access is forbidden, and EIO otherwise.
    """


class Remote:
    """Files of a remote folder. Safe to use from threads and in a forked process.

    Args:
        url: the folder, with any protocol that fsspec supports.
        stop: once it is set, reads end with `ReadCancelled`.

    Raises:
        UserError: fsspec does not know the protocol, or the package for it is missing.
    """

    def __init__(self, url: Url, stop: Event) -> None:
        self.url, self._stop = url, stop
        self._files: tuple[int, Any] = 0, None  # process, and fsspec's object
        protocol = url.partition("://")[0]
        try:
            self._file_system()
        except TimeoutError as error:
            raise UserError(
                f"the file system does not answer: {error}",
                where=shown(url),
                fix="check the network and the credentials",
            ) from error
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or error.name
            raise UserError(
                f"{protocol}:// URLs need a package that cannot be imported: {error}",
                where=shown(url),
                fix=f"pip install {package}" if package else None,
            ) from error
        except ValueError as error:
            raise UserError(
                f"cannot be opened: {error}",
                where=shown(url),
                fix="give a folder, or a URL that fsspec supports, such as s3://, gs://, https:// or hf://",
            ) from error

    def read(
        self, name: str, start: int, stop: int, *, tries: int = TRIES, seconds: float = math.inf
    ) -> bytes:
        """Read bytes of a file from `start` up to `stop`, or up to the end of the file.

        The result is longer if the server does not support ranges and sends the whole file.

        Args:
            name: name of the file.
            start: first byte.
            stop: byte behind the last one.
            tries: maximum number of attempts.
            seconds: time after which no further attempt begins.

        Raises:
            RemoteError: it cannot be read.
            ReadCancelled: the reads were ended meanwhile.
        """
        with ExitStack() as stack:
            return self._read(name, start, stop, tries, time.monotonic() + seconds, stack)

    def _read(self, name: str, start: int, stop: int, tries: int, ends: float, stack: ExitStack) -> bytes:
        """Read as `read` says. Once an attempt has failed, this read counts as retried until the stack is closed."""
        url = self.url / name
        for attempt in range(1, tries + 1):
            try:
                data = self._request(url, start, stop)
                return data[start:] if len(data) > stop - start else data
            except ReadCancelled:
                raise
            except Exception as error:
                if _status(error) == 416:  # range not satisfiable: no bytes are there
                    return b""
                reason = _reason(error)
                if attempt == tries or not _may_pass(error) or time.monotonic() > ends:
                    raise RemoteError(_errno(error), reason, shown(url)) from error
            if attempt == 1:
                _failing.add(1)
                stack.callback(_failing.add, -1)
            pause = min(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1), _LONGEST_WAIT_SECONDS)
            pause *= random.uniform(0.5, 1)
            _log.warning("%s: %s; trying again in %.1f s", shown(url), reason, pause)
            if self._stop.wait(pause):
                break
        raise ReadCancelled

    def _request(self, url: Url, start: int, stop: int) -> bytes:
        from fsspec.core import url_to_fs

        files = self._file_system()
        path = url_to_fs(str(url))[1] if "::" in url else files._strip_protocol(str(url))
        if not files.async_impl:
            # no read-ahead
            return _within(
                _TIMEOUT_SECONDS, lambda: files.cat_file(path, start=start, end=stop, cache_type="none")
            )
        # not `files.cat_file`, because it can be interrupted only between requests
        future = asyncio.run_coroutine_threadsafe(files._cat_file(path, start=start, end=stop), files.loop)
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not wait([future], _POLL_SECONDS).done:
            if self._stop.is_set() or time.monotonic() > deadline:
                future.cancel()
                if self._stop.is_set():
                    raise ReadCancelled
                raise TimeoutError(f"no answer for {_TIMEOUT_SECONDS:.0f} s")
        return future.result()

    def _file_system(self) -> Any:
        """Return fsspec's object for the URL. It is created again in a forked process, whose event loop has no
        thread."""
        process, files = self._files
        if process != os.getpid():
            self._import_file_systems()
            files = _within(_TIMEOUT_SECONDS, self._make_file_system)
            self._files = os.getpid(), files
        return files

    def _import_file_systems(self) -> None:
        """Import the packages of the URL's file systems. This may be slow without the network being at fault."""
        from fsspec import get_filesystem_class

        for part in str(self.url).split("::"):
            with suppress(ImportError, ValueError):  # `_make_file_system` raises them again
                found = get_filesystem_class(part.partition("://")[0])
                # Some packages log the traceback of each failed request. Without a handler, Python prints it.
                logging.getLogger(found.__module__.partition(".")[0]).addHandler(logging.NullHandler())

    def _make_file_system(self) -> Any:
        from fsspec.core import url_to_fs

        # The signature in a query is for these very characters.
        options = {"encoded": True} if self.url.startswith("http") and "?" in self.url else {}
        return url_to_fs(str(self.url), **options)[0]


def is_web_page(data: bytes) -> bool:
    """Return whether data begins as an HTML page, such as a login or an error page."""
    return data.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """Return the result of a call that cannot be interrupted. Some file systems look for credentials on the network.

    Raises:
        TimeoutError: it takes longer. The call goes on in its thread.
        BaseException: an exception of the call.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, name="remote", daemon=True).start()
    try:
        return outcome.result(seconds)
    except FutureTimeout:
        if outcome.done():
            raise
        raise TimeoutError(f"no answer for {seconds:.0f} s") from None


def _status(error: BaseException) -> int | None:
    """Return the HTTP status, wherever the package stores it."""
    # not `or`, because an error response of requests is falsy
    response = getattr(error, "response", getattr(error.__cause__, "response", None))
    if isinstance(response, dict):  # from botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    for holder, name in (error, "status"), (response, "status_code"), (error, "code"):
        if isinstance(status := getattr(holder, name, None), int):
            return status
    return None


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _MAY_PASS
    return not isinstance(error, _FINAL) and "Credential" not in type(error).__name__


def _errno(error: Exception) -> int:
    if isinstance(error, FileNotFoundError) or _status(error) in (404, 410):
        return errno.ENOENT
    if isinstance(error, PermissionError) or _status(error) in (401, 403):
        return errno.EACCES
    return errno.EACCES if "Credential" in type(error).__name__ else errno.EIO


def _reason(error: Exception) -> str:
    if (status := _status(error)) is not None:
        return f"HTTP status {status}"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return " ".join(str(error).split()) or type(error).__name__
