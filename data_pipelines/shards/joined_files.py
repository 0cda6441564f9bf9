"""The shards of several datasets, numbered through."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, tee
from pathlib import Path

from data_pipelines.shards.cached_files import CachedFiles
from data_pipelines.shards.local_files import LocalFiles
from data_pipelines.urls import Url


class JoinedFiles:
    """Reads from the files of several datasets. The shards of each dataset follow those of the one before.

    Args:
        parts: files of each dataset.
        counts: number of shards of each dataset.
    """

    def __init__(self, parts: Sequence["ShardFiles"], counts: Sequence[int]) -> None:
        self._parts, self._counts = tuple(parts), tuple(counts)
        self._first = [0, *accumulate(counts)]

    def copy(self) -> "JoinedFiles":
        """Return the same shards with separate open files, windows and threads."""
        return JoinedFiles([part.copy() for part in self._parts], self._counts)

    def folder_of(self, number: int) -> Path | Url:
        """Return the folder that holds a shard."""
        part, own = self._find(number)
        return part.folder_of(own)

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Read bytes of a shard, as its dataset's files do."""
        part, own = self._find(number)
        return part.read(own, size, offset)

    def read_again(self, number: int, size: int, offset: int, is_right: Callable[[bytes], bool]) -> bytes:
        """Read bytes that were wrong again, as its dataset's files do."""
        part, own = self._find(number)
        return part.read_again(own, size, offset, is_right)

    def expect(self, upcoming: Iterator[Sequence[int]]) -> None:
        """Prepare the shards that are read next.

        Args:
            upcoming: shards by block. A block may hold shards of several datasets.
        """
        for part, first, end, blocks in zip(
            self._parts, self._first, self._first[1:], tee(upcoming, len(self._parts)), strict=False
        ):
            part.expect(_inside(blocks, first, end))

    def start(self) -> None:
        """Allow reads again after `stop`."""
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """End the reads of all datasets. Idempotent."""
        for part in self._parts:
            part.stop()

    def _find(self, number: int) -> "tuple[ShardFiles, int]":
        place = bisect_right(self._first, number) - 1
        return self._parts[place], number - self._first[place]


def _inside(blocks: Iterator[Sequence[int]], first: int, end: int) -> Iterator[list[int]]:
    """Yield the shards of one dataset by its own numbers, without blocks that hold none of them."""
    for block in blocks:
        if own := [number - first for number in block if first <= number < end]:
            yield own


ShardFiles = LocalFiles | CachedFiles | JoinedFiles
"""The source of the bytes of a dataset."""
