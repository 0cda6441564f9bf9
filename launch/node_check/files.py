"""How fast this node reads files from the disk of a set."""

import os
import platform
import random
import time
from pathlib import Path

from data_pipelines.errors import UserError

_PIECE = 4 * 2**20
"""Bytes of one read."""
_MOST_SHARDS = 200
"""Number of shards that are looked at. Large sets have thousands, and each look may ask a file server."""


def read_rate(folder: Path, seconds: float) -> float:
    """Return the bytes per second of reads at random places of the shards of a set.

    The pages that are read are dropped from this node's cache before, so that the disk answers. Each node reads other
    places, so that the cache of a file server helps none of them more than others.

    Raises:
        UserError: there is no shard.
        OSError: a file cannot be read.
    """
    numbers = random.Random(platform.node())
    found = sorted(folder.rglob("*.tar"))
    some = numbers.sample(found, min(_MOST_SHARDS, len(found)))
    shards = [(path, size) for path in some if (size := _size(path))]
    if not shards:
        raise UserError(
            "there is no shard here", where=folder, fix="give the folder of a set, as in data.train"
        )
    taken, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        path, size = numbers.choices(shards, weights=[size for _, size in shards])[0]
        place = numbers.randrange(max(1, size - _PIECE + 1)) // 4096 * 4096
        taken += _read(path, place)
    return taken / (time.perf_counter() - began)


def _size(path: Path) -> int:
    return path.stat().st_size


def _read(path: Path, place: int) -> int:
    """Read a piece of a file from the disk. Returns its length."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(opened, place, _PIECE, os.POSIX_FADV_DONTNEED)
        return len(os.pread(opened, _PIECE, place))
    finally:
        os.close(opened)
