import ctypes
import mmap
import os
import time
from itertools import chain, repeat
from pathlib import Path

import pytest

from data_pipelines.shards.read_ahead import ReadAhead

SIZE = 3_000_000


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """Five files that are on the disk and not in the page cache."""
    names = [f"shard-{number}.tar" for number in range(5)]
    for name in names:
        path = tmp_path / name
        path.write_bytes(os.urandom(SIZE))
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if in_memory(path):
            pytest.skip("this file system keeps all in memory")
    return names


def in_memory(path: Path) -> bool:
    """Whether all of a file is in the page cache."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-SIZE // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        address = ctypes.c_void_p(ctypes.addressof(start))
        assert ctypes.CDLL(None).mincore(address, ctypes.c_size_t(SIZE), pages) == 0
        del start
        return all(page & 1 for page in pages)


def until_in_memory(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not in_memory(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_this_block_and_the_next_come_into_memory_and_no_more(tmp_path: Path, names: list[str]) -> None:
    ahead = ReadAhead(tmp_path, names)
    ahead.expect(chain([[3], [0, 1]], repeat([2, 4])))
    for number in (3, 0, 1):
        until_in_memory(tmp_path / names[number])
    ahead.stop()
    assert not in_memory(tmp_path / names[4])
    ahead.expect(iter([[2], [4]]))
    until_in_memory(tmp_path / names[4])
    ahead.stop()
    ahead.stop()


def test_a_shard_that_is_missing_does_not_stop_the_others(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / names[0]).unlink()
    ahead = ReadAhead(tmp_path, names)
    ahead.expect(iter([[0], [1]]))
    until_in_memory(tmp_path / names[1])
    ahead.stop()
