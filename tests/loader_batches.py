"""What the tests of loaders share."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipelines.loading.loaders import TrainLoader
from data_pipelines.loading.prefetching_batches import Batch
from data_pipelines.settings import DataSettings, ViewSettings
from data_pipelines.shards.shard_set import ShardSet

CPU = torch.device("cpu")


VIEWS = (ViewSettings(size=16, blur_prob=0.5), ViewSettings(size=24, solarize_prob=0.2))


executors = pytest.mark.parametrize("executor", ["opencv", "dali"])


def settings(executor: str = "opencv", **changes: Any) -> DataSettings:
    given = {"executor": executor, "views": VIEWS, "threads": 2, "eval_resize": 18, "shuffle_block": 30}
    return DataSettings(**(given | changes))


def take(shards: ShardSet, config: DataSettings, count: int, start: int = 0, **changes: Any) -> list[Batch]:
    given = {"seed": 5, "rank": 0, "world_size": 1, "global_batch": 24, "device": CPU}
    with TrainLoader(shards, config, **(given | changes)) as loader:
        return list(islice(loader.batches(start), count))


def same(one: Batch, other: Batch) -> bool:
    views = all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))
    return views and torch.equal(one.labels, other.labels) and torch.equal(one.ids, other.ids)


@contextmanager
def spoiled(whole_set: Path, folder: Path, samples: list[int]) -> Iterator[ShardSet]:
    """A copy of the set in which some samples rotted after it was indexed."""
    shutil.copytree(whole_set, folder)
    shards = ShardSet.open(folder)
    for sample in samples:
        path = folder / f"shard-{shards.index['shard'][sample]:06d}.tar"
        data = bytearray(path.read_bytes())
        data[int(shards.index["offset"][sample]) + 60] ^= 255
        path.write_bytes(data)
    yield shards
