"""The shards of a local dataset, read by position."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock

from data_pipelines.shards.cache import Descriptor
from data_pipelines.shards.read_ahead import ReadAhead

_MAX_OPEN = 256


class LocalFiles:
    """Positioned reads from the shards of a folder. The most recently used shards stay open."""

    def __init__(self, folder: Path, names: list[str], read_ahead: bool) -> None:
        self._folder, self._names = folder, names
        self._ahead = ReadAhead(folder, names) if read_ahead else None
        self._lock = Lock()
        self._open: OrderedDict[int, Descriptor] = OrderedDict()

    def copy(self) -> "LocalFiles":
        """Return the same shards with separate open files."""
        return LocalFiles(self._folder, self._names, self._ahead is not None)

    def folder_of(self, number: int) -> Path:
        """Return the folder that holds a shard."""
        return self._folder

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Read bytes of a shard; fewer if it ends before. Raises OSError."""
        with self._lock:
            descriptor = self._open.pop(number, None) or Descriptor(self._folder / self._names[number])
            self._open[number] = descriptor
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return os.pread(descriptor.number, size, offset)

    def read_again(self, number: int, size: int, offset: int, is_right: Callable[[bytes], bool]) -> bytes:
        """Read bytes that were wrong again. There is no other copy."""
        return self.read(number, size, offset)

    def expect(self, upcoming: Iterator[Sequence[int]]) -> None:
        """Read the next shards into the page cache if `read_ahead` is set."""
        if self._ahead is not None:
            self._ahead.expect(upcoming)

    def start(self) -> None:
        """Do nothing, because there is nothing to start."""

    def stop(self) -> None:
        """End the read-ahead thread. Other reads do not wait for long."""
        if self._ahead is not None:
            self._ahead.stop()
