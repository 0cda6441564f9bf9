"""Verify a dataset: read every byte of its shards and compare it with the index."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.imaging.images import UnusableImage, check
from data_pipelines.shards.index import read_record
from data_pipelines.shards.shard_set import BadSample, ShardSet
from data_pipelines.workers import spread


class ShardReport(NamedTuple):
    """Result for one shard."""

    name: str
    samples: int
    bad: list[tuple[str, str]]
    """Key and reason of each bad sample."""


class _Task(NamedTuple):
    folder: Path
    name: str
    first: int
    last: int
    decode: bool


def verify(
    folder: Path, *, decode: bool = False, workers: int = 1, report: Callable[[int], object] = lambda _: None
) -> list[ShardReport]:
    """Read every sample of a dataset and check its CRC, header and end marker.

    Args:
        folder: folder of the shards.
        decode: whether to also decode each image completely.
        workers: number of worker processes.
        report: called with the number of finished shards.

    Raises:
        UserError: the dataset cannot be opened, or its index was changed after it was written.
    """
    shards = ShardSet.open(folder)
    names = [shard.name for shard in read_record(folder).shards]
    ends = np.cumsum(shards.shard_sizes).tolist()
    tasks = [
        _Task(folder, name, end - size, end, decode)
        for name, size, end in zip(names, shards.shard_sizes, ends, strict=True)
    ]
    reports = []
    for found in spread(_verify_shard, tasks, workers=workers):
        reports.append(found)
        report(len(reports))
    return reports


def _verify_shard(task: _Task) -> ShardReport:
    shards = ShardSet.open(task.folder)
    bad = []
    for sample in range(task.first, task.last):
        try:
            check(shards.read(sample), decode=task.decode)
        except BadSample as error:
            bad.append((shards.key(sample), error.reason))
        except UnusableImage as error:
            bad.append((shards.key(sample), str(error)))
    return ShardReport(task.name, task.last - task.first, bad)
