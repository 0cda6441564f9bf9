"""The shards of a remote dataset, read through the local cache and prefetched."""

import errno
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from threading import Condition, Event, Thread
from urllib.parse import quote

from data_pipelines.shards.cache import Cache, CacheFull, Descriptor, Read, ReadCancelled
from data_pipelines.shards.index import DatasetRecord
from data_pipelines.shards.remote import CHUNK, Remote, RemoteError, is_web_page
from data_pipelines.urls import Url, shown

_THREADS = 4
_FULL_SECONDS = 1.0  # between checks for free room
_FAILED_SECONDS = 60.0  # before a failed download is tried again
_log = logging.getLogger(__name__)


class CachedFiles:
    """The shards of a remote dataset. Each is downloaded as a whole when it is read or expected.

    Reading is safe from several threads.

    Args:
        url: folder of the dataset.
        cache: cache for the shards.
        record: content of `dataset.json`.
        index: the index file in the cache, protected from eviction while this object lives.
        ahead: maximum number of shards to download ahead of the current block.
        fraction: fraction of the cache that the shards which are needed next may take, in (0, 1].
    """

    def __init__(
        self,
        url: Url,
        cache: Cache,
        record: DatasetRecord,
        index: Descriptor,
        ahead: int,
        fraction: float = 1.0,
    ) -> None:
        self._url, self._cache, self._record, self._index, self._ahead = url, cache, record, index, ahead
        self._fraction = fraction
        self._stop, self._changed = Event(), Condition()
        self._remote = Remote(url, self._stop)
        self._window: list[int] = []  # shards needed next, the earliest first
        self._held: dict[int, Descriptor] = {}  # shards of the window that are in the cache
        self._queue: deque[int] = deque()
        self._threads: list[Thread] = []
        self._failed: dict[int, tuple[float, str]] = {}  # time of the next try, and the reason
        self._told = False

    def copy(self) -> "CachedFiles":
        """Return the same shards with a separate window, threads and stop event."""
        return CachedFiles(self._url, self._cache, self._record, self._index, self._ahead, self._fraction)

    def folder_of(self, number: int) -> Url:
        """Return the folder that holds a shard."""
        return self._url

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Read bytes of a shard. If the disk has no room for the shard, read from the remote folder.

        Raises:
            OSError: the shard cannot be downloaded.
            ReadCancelled: reads were ended.
        """
        until, reason = self._failed.get(number, (0.0, ""))
        if time.monotonic() < until:
            raise RemoteError(errno.EIO, reason)
        if self._stop.is_set():
            raise ReadCancelled
        try:
            return self._read_cached(number, size, offset)
        except RemoteError as error:
            self._failed[number] = (time.monotonic() + _FAILED_SECONDS, str(error.strerror))
            raise

    def read_again(self, number: int, size: int, offset: int, is_right: Callable[[bytes], bool]) -> bytes:
        """Read bytes that were wrong again from the remote folder.

        If they are right there, the cached copy is wrong and is removed.
        """
        data = self._read_remote(number, size, offset)
        if is_right(data):
            with self._changed:
                wrong = self._held.pop(number, None)
            if wrong := wrong or self._cache.open(self._name(number)):
                self._cache.drop(self._name(number), wrong)
        return data

    def expect(self, upcoming: Iterator[Sequence[int]]) -> None:
        """Download the shards that are read next, as far as the cache has room, and release the others.

        Args:
            upcoming: shards by block: the current block, then the following ones.
        """
        window = self._fitting(upcoming)
        with self._changed:
            if window == self._window or self._stop.is_set():
                return
            self._window = window
            for number in self._held.keys() - set(window):
                self._held.pop(number).touch()
            self._queue = deque(number for number in window if number not in self._held)
            self._changed.notify_all()
            while len(self._threads) < min(_THREADS, len(window)):
                self._threads.append(Thread(target=self._fetch_ahead, name="fetch", daemon=True))
                self._threads[-1].start()

    def start(self) -> None:
        """Allow reads and `expect` again after `stop`."""
        self._stop.clear()

    def stop(self) -> None:
        """End all downloads and reads, which raise `ReadCancelled`, and wait for the threads. Idempotent."""
        with self._changed:
            self._stop.set()
            self._window, self._held = [], {}
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _fitting(self, upcoming: Iterator[Sequence[int]]) -> list[int]:
        block = next(upcoming, [])
        window, left = list[int](), int(self._fraction * self._cache.max_bytes)
        for number in dict.fromkeys(chain(block, islice(chain.from_iterable(upcoming), self._ahead))):
            left -= self._record.shards[number].size
            if left < 0:
                break
            window.append(number)
        return window

    def _fetch_ahead(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stop.is_set())
                if self._stop.is_set():
                    return
                number = self._queue.popleft()
            try:
                self._open(number)
            except CacheFull:  # retried when other readers on this node have finished a block
                with self._changed:
                    if number in self._window:
                        self._queue.append(number)
                self._stop.wait(_FULL_SECONDS)
            except ReadCancelled:
                return
            except OSError as error:  # the read of this shard meets the same error and reports it
                _log.debug("%s: %s", self._record.shards[number].name, error)

    def _read_cached(self, number: int, size: int, offset: int) -> bytes:
        try:
            file = self._open(number)
            return os.pread(file.number, size, offset)
        except RemoteError:
            raise
        except (CacheFull, OSError) as error:
            if not self._told:
                self._told = True
                _log.warning(
                    "%s has no room for the shards that are read together (%s). Images are read one by one, which is "
                    "slow. Raise data.cache_bytes (%d), free some space, or lower data.shuffle_block.",
                    self._cache.folder,
                    error.strerror if isinstance(error, OSError) else "full",
                    self._cache.max_bytes,
                )
            return self._read_remote(number, size, offset)

    def _read_remote(self, number: int, size: int, offset: int) -> bytes:
        return self._remote.read(self._record.shards[number].name, offset, offset + size)[:size]

    def _open(self, number: int) -> Descriptor:
        """Open the shard's file in the cache, and download it if it is missing. A shard in the window stays
        protected."""
        name, shard = self._name(number), self._record.shards[number]
        while True:
            with self._changed:
                if number in self._held:
                    return self._held[number]
            if (found := self._cache.open(name)) is None:
                self._cache.fetch(
                    name, shard.size, download(self._remote, shard.name, shard.size), self._stop
                )
                continue
            with self._changed:
                if number in self._window and self._cache.keep(name, found):
                    self._held[number] = found
            return found

    def _name(self, number: int) -> str:
        return name_in_cache(self._record, self._record.shards[number].name)


def download(remote: Remote, name: str, size: int) -> Read:
    """Return a function that reads a remote file in chunks. It fails if the file's length is not `size`."""

    def read(offset: int) -> bytes:
        data = remote.read(name, offset, offset + CHUNK)
        if offset == 0 and is_web_page(data):
            raise RemoteError(
                errno.EIO, "the server sent a web page (HTML) in place of the file", shown(remote.url / name)
            )
        if not data or offset + len(data) > size:
            found = f"more than {size}" if data else str(offset)
            raise RemoteError(
                errno.EIO,
                f"the file has {found} bytes but the index was made for {size}",
                shown(remote.url / name),
            )
        return data

    return read


def name_in_cache(record: DatasetRecord, name: str) -> str:
    """Return the name of a dataset's file in the cache. Datasets with different content have different names.

    The cache has one folder per dataset without subfolders, so the path of a shard in a subfolder is quoted.
    """
    return f"{record.fingerprint[:16]}/{quote(name, safe='') if '/' in name else name}"
