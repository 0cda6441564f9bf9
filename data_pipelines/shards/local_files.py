"""The shards of a local set, read by position."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock

from data_pipelines.shards.cache import Descriptor
from data_pipelines.shards.read_ahead import ReadAhead

_MAX_OPEN = 256


class LocalFiles:
    """Positioned reads from the shards of a folder, of which the last used stay open."""

    def __init__(self, folder: Path, names: list[str], read_ahead: bool) -> None:
        self._folder, self._names = folder, names
        self._ahead = ReadAhead(folder, names) if read_ahead else None
        self._lock = Lock()
        self._open: OrderedDict[int, Descriptor] = OrderedDict()

    def copy(self) -> "LocalFiles":
        """The same shards with open files of their own."""
        return LocalFiles(self._folder, self._names, self._ahead is not None)

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Bytes of a shard, fewer where it ends before. Raises OSError."""
        with self._lock:
            descriptor = self._open.pop(number, None) or Descriptor(self._folder / self._names[number])
            self._open[number] = descriptor
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return os.pread(descriptor.number, size, offset)

    def read_again(self, number: int, size: int, offset: int, is_right: Callable[[bytes], bool]) -> bytes:
        """Bytes that were not as they should be; here is the only copy."""
        return self.read(number, size, offset)

    def expect(self, upcoming: Iterator[Sequence[int]]) -> None:
        """Have the shards that come next read into memory, if that was asked for."""
        if self._ahead is not None:
            self._ahead.expect(upcoming)

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """End what reads ahead; no other read waits for long."""
        if self._ahead is not None:
            self._ahead.stop()
