"""Reads the next shards into the page cache, each from its first byte to its last.

Samples of a block are read in random order. Spinning disks and network file systems are slow at random reads. After one
sequential pass over each shard, those reads come from memory.
"""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread

_CHUNK = 8 * 2**20  # bytes per request; the thread can be stopped between requests
_BLOCKS = 2  # the current block and the next


class ReadAhead:
    """One thread that follows the order of the shards.

    Args:
        folder: folder of the shards.
        names: names of all shards, by number.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names
        self._asked: set[int] = set()
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        self._stop = Event()
        self._thread: Thread | None = None

    def expect(self, upcoming: Iterator[Sequence[int]]) -> None:
        """Start reading the shards of the current and the next block that are not being read yet.

        Args:
            upcoming: shards of the current block, then of each following one.
        """
        wanted = [number for block in islice(upcoming, _BLOCKS) for number in block]
        for number in wanted:
            if number not in self._asked:
                self._queue.put(number)
        self._asked = set(wanted)
        if self._thread is None:
            self._stop.clear()
            self._thread = Thread(target=self._work, name="read-ahead", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread. Idempotent. `expect` starts it again."""
        if self._thread is None:
            return
        self._stop.set()
        self._queue.put(None)
        self._thread.join()
        self._thread, self._asked, self._queue = None, set(), SimpleQueue()

    def _work(self) -> None:
        while (number := self._queue.get()) is not None and not self._stop.is_set():
            try:
                self._read(self._folder / self._names[number])
            except OSError:
                continue  # the read of its samples meets the same error and reports it

    def _read(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset in range(0, os.fstat(descriptor).st_size, _CHUNK):
                if self._stop.is_set():
                    return
                os.posix_fadvise(descriptor, offset, _CHUNK, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
